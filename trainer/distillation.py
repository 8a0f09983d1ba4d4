# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Distillation: an adapter of words becomes a linear one that says nearly the same, from images alone.

Finetuning a softmax that has made up its mind is slow, and it cannot be folded or exported. Raw coefficients have
neither trouble, but fresh ones know nothing. So they learn, patch by patch, to give the visual tokens that the words
gave; the language model lends its embeddings, its layers are not run.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.modeling_langbridge import (
    LangBridgeModel,
    LangBridgeMultiModalProjector,
    LangBridgeVocabularyHead,
)

from .images import open_image
from .muon import MuonWithAdamW


HELD_OUT = 10  # one image in so many


class Distillation(nn.Module):
    """
    How far the visual tokens of a new adapter are from those of a model's own.

    Args:
        teacher ([`LangBridgeModel`]): frozen here.
        projector ([`LangBridgeMultiModalProjector`]), head ([`LangBridgeVocabularyHead`]): the new adapter.
    """

    def __init__(
        self, teacher: LangBridgeModel, projector: LangBridgeMultiModalProjector, head: LangBridgeVocabularyHead
    ):
        super().__init__()
        self.teacher, self.projector, self.head = teacher.requires_grad_(False), projector, head

    def train(self, mode: bool = True) -> "Distillation":
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(images, channels, height, width)`): images.

        Returns:
            `dict` with the visual tokens `found` and their `target`, `(images, tokens, d)` in float32, and `loss`, the
            mean square of their difference in units of the target's own.
        """
        with torch.no_grad():
            features = self.teacher.get_vision_features(pixel_values).pooler_output  # (images, tokens, d_v)
            target = self.teacher.adapt(features).float()  # (images, tokens, d)
        found = self.head(self.projector(features), self.teacher.get_word_embeddings()).float()  # (images, tokens, d)
        # In these units it is near 1 at first. Words are short vectors: without them the loss would be minute.
        loss = (found - target).square().mean() / target.square().mean()
        return {"loss": loss, "found": found, "target": target}


def distil(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    images: Sequence[Any],
    arguments: TrainingArguments,
    projector_hidden_size: int | None = None,
) -> float:
    """
    Replaces a model's adapter of distributions, in place, by one of raw coefficients that says nearly the same.

    Args:
        model (`LangBridgeForConditionalGeneration`):
            With a softmax or gated_softmax adapter that hands over a visual token a patch.
        processor (`LangBridgeProcessor`):
            Its processor.
        images (`Sequence`):
            At least ten of what [`~trainer.images.open_image`] opens. Every tenth is held out.
        arguments (`TrainingArguments`):
            How long and how fast the new adapter learns; its matrices do by Muon.
        projector_hidden_size (`int`, *optional*):
            Width H of the new projector; the language model's when left out, the widest that a stock LLaVA holds.

    Returns:
        `float`: R² of the visual tokens on the images held out, 1 where the new adapter gives what the old one gave.

    Raises:
        `ValueError`: the adapter is not of that kind, or there are fewer than ten images.
    """
    model.config.require_words("`distil`")
    if model.config.coefficient_activation == "linear":
        raise ValueError("The adapter's coefficients are raw already: there is nothing to distil.")
    if model.config.words_per_image is not None:
        raise ValueError("`words_per_image` hands over words: distil an adapter that gives a visual token a patch.")
    if len(images) < HELD_OUT:
        raise ValueError(f"Distilling takes {HELD_OUT} images or more, but there are {len(images)}.")
    config = copy.deepcopy(model.config)
    config.coefficient_activation, config.linear_remainder = "linear", False
    config.projector_hidden_size = projector_hidden_size or config.text_config.hidden_size
    projector, head = LangBridgeMultiModalProjector(config), LangBridgeVocabularyHead(config)
    for module in (*projector.modules(), head):
        model._init_weights(module)
    head.token_ids.copy_(model.model.vocabulary_head.token_ids)
    distillation = Distillation(model.model, projector.to(model.device), head.to(model.device))

    def collate(batch: Sequence[Any]) -> dict[str, torch.Tensor]:
        opened = [open_image(image) for image in batch]
        return {"pixel_values": processor.image_processor(opened, return_tensors="pt")["pixel_values"]}

    learnt = [image for position, image in enumerate(images) if position % HELD_OUT]
    trainer = Trainer(distillation, arguments, data_collator=collate, train_dataset=learnt)
    parameters = [*projector.parameters(), *head.parameters()]
    matrices, others = ([p for p in parameters if (p.ndim == 2) is two] for two in (True, False))
    trainer.optimizer = MuonWithAdamW(matrices, others, arguments.learning_rate)
    trainer.train()
    held_out = DataLoader(images[::HELD_OUT], arguments.per_device_eval_batch_size, collate_fn=collate)
    r2 = score(distillation.eval(), held_out)
    adapter = model.model
    adapter.multi_modal_projector, adapter.vocabulary_head = (part.to(model.dtype) for part in (projector, head))
    model.config = model.model.config = config
    return r2


@torch.no_grad()
def score(distillation: Distillation, batches: Iterable[dict[str, torch.Tensor]]) -> float:
    """R² of the new adapter's visual tokens, all their dimensions together."""
    difference, sums, squares, count = 0.0, 0.0, 0.0, 0
    for batch in batches:
        outputs = distillation(batch["pixel_values"].to(distillation.head.weight.device))
        target = outputs["target"].flatten(0, 1).double()  # (tokens, d)
        difference += (outputs["found"].flatten(0, 1) - target).square().sum()
        sums, squares, count = sums + target.sum(0), squares + target.square().sum(), count + len(target)
    return (1 - difference / (squares - sums.square().sum() / count)).item()

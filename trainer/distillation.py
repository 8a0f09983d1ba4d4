# SPDX-License-Identifier: Apache-2.0
"""Distillation: an adapter with softmax coefficients becomes one with raw coefficients, from images alone.

A saturated softmax is slow to finetune and can be neither folded nor exported. Raw coefficients can, but new ones are
random. So LLaVA's projector learns, patch by patch, to give the softmax adapter's visual tokens, and is then lifted
into raw coefficients. The lift is exact, since the tokens are combinations of these words. Of the language model only
the embeddings are used.

Learning the coefficients directly is badly conditioned: the gradient reaches them through the embeddings, whose
singular values differ by orders of magnitude.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from modeling_langbridge import (
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeNextConfig,
    LangBridgeProcessor,
)
from modeling_langbridge.adapter.word_space import set_to_inverse
from modeling_langbridge.modeling_langbridge import LangBridgeModel, LangBridgeMultiModalProjector
from modeling_langbridge.utils.weights import require_finite
from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead

from .data.feature_cache import FeatureCache
from .data.images import open_image
from .muon import MuonWithAdamW


HELD_OUT, MOST_HELD_OUT = 10, 64  # one image in ten, but about 64 at most: their tokens stay in memory


class Distillation(nn.Module):
    """
    The distance between a projector's visual tokens and those of a model's own adapter.

    Args:
        teacher ([`LangBridgeModel`]): frozen here.
        projector ([`LangBridgeMultiModalProjector`]): learns the teacher's tokens divided by `unit`.
        unit (`float`): words are short vectors, and a projector would overshoot them at any usual learning rate.
    """

    def __init__(self, teacher: LangBridgeModel, projector: LangBridgeMultiModalProjector, unit: float):
        super().__init__()
        self.teacher, self.projector, self.unit = teacher.requires_grad_(False), projector, unit

    def train(self, mode: bool = True) -> "Distillation":
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The mean square of their difference, over images `(images, channels, height, width)`, as `loss`."""
        features, target = run_adapter(self.teacher, pixel_values)  # (images, tokens, d_v), (images, tokens, d)
        return {"loss": (self.projector(features).float() - target / self.unit).square().mean()}


@torch.no_grad()
def run_adapter(model: LangBridgeModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The vision features `(images, tokens, d_v)` and the visual tokens `(images, tokens, d)`, these in float32."""
    features = model.get_vision_features(pixel_values.to(model.device)).pooler_output
    return features, model.adapt(features).float()


def distil(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    images: Sequence[Any],
    arguments: TrainingArguments,
    features: FeatureCache | None = None,
) -> float:
    """
    Replaces a model's softmax adapter, in place, by one of raw coefficients that gives nearly the same visual tokens
    and is as wide as the language model (H = d), the widest that a stock LLaVA holds.

    Args:
        model (`LangBridgeForConditionalGeneration`):
            With a softmax or gated_softmax adapter that gives one visual token per patch.
        processor (`LangBridgeProcessor`):
            Its processor.
        images (`Sequence`):
            At least ten of what [`~trainer.data.images.open_image`] opens. Every tenth is held out, up to 127 of them.
        arguments (`TrainingArguments`):
            How long and how fast the new adapter learns; its matrices do by Muon.
        features ([`~trainer.data.feature_cache.FeatureCache`], *optional*):
            What the images' features are read from; without it the tower computes them in every pass.

    Returns:
        `float`: R² of the visual tokens on the images held out, 1 where the new adapter gives what the old one gave.

    Raises:
        `ValueError`: the adapter is not of that kind, there are fewer than ten images, or the new adapter's weights
        are not finite; the model is as it was.
    """
    check_distillable(model.config, images)

    def collate(batch: Sequence[Any]) -> dict[str, torch.Tensor]:
        if features is not None:
            return features.stack([features.read(image) for image in batch])
        opened = [open_image(image) for image in batch]
        return {"pixel_values": processor.image_processor(opened, return_tensors="pt")["pixel_values"]}

    every = max(HELD_OUT, len(images) // MOST_HELD_OUT)

    def held_out() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        loader = DataLoader(images[::every], arguments.per_device_eval_batch_size, collate_fn=collate)
        return (run_adapter(model.model.eval(), batch["pixel_values"]) for batch in loader)

    targets = [target.flatten(0, 1).cpu() for _, target in held_out()]  # of each batch, (tokens, d)
    unit = torch.cat(targets).square().mean().sqrt().item()
    config = copy.deepcopy(model.config)
    config.coefficient_activation, config.linear_remainder = "linear", False
    config.projector_hidden_size = config.text_config.hidden_size
    projector = LangBridgeMultiModalProjector(config).to(model.device)
    for module in projector.modules():
        model._init_weights(module)
    distillation = Distillation(model.model, projector, unit)
    learnt = [image for position, image in enumerate(images) if position % every]
    trainer = Trainer(distillation, arguments, data_collator=collate, train_dataset=learnt)
    parameters = list(projector.parameters())
    matrices, others = ([p for p in parameters if (p.ndim == 2) is two] for two in (True, False))
    trainer.optimizer = MuonWithAdamW(matrices, others, arguments.learning_rate)
    trainer.train()
    require_finite(projector.named_parameters(), "the distilled projector")
    replace_adapter(model, config, projector, unit)
    return score(targets, [found.flatten(0, 1).cpu() for _, found in held_out()])


def check_distillable(config: LangBridgeConfig, images: Sequence[Any]) -> None:
    """Raises `ValueError` where [`distil`] cannot distil this adapter or these images."""
    config.require_words("`distil`")
    if config.coefficient_activation == "linear":
        raise ValueError("The adapter's coefficients are raw already: there is nothing to distil.")
    if config.words_per_image is not None:
        raise ValueError(
            "`words_per_image` gives a visual token per word: distil an adapter alone without it, or a model that "
            "gives a visual token per patch."
        )
    if isinstance(config, LangBridgeNextConfig):
        raise ValueError("Distilling reads images of one size, not tiles: distil the adapter in a LangBridge.")
    if len(images) < HELD_OUT:
        raise ValueError(f"Distilling takes {HELD_OUT} images or more, but there are {len(images)}.")


@torch.no_grad()
def replace_adapter(
    model: LangBridgeForConditionalGeneration,
    config: LangBridgeConfig,
    projector: LangBridgeMultiModalProjector,
    unit: float,
) -> None:
    """Replaces the adapter by a projector that gives visual tokens divided by `unit`, lifted into raw coefficients."""
    for parameter in projector.linear_2.parameters():
        parameter.mul_(unit)
    head = LangBridgeVocabularyHead(config).to(model.device)
    set_to_inverse(head, model.model.get_word_embeddings())
    for name, ids in model.model.vocabulary_head.named_buffers():
        head.get_buffer(name).copy_(ids)
    model.model.multi_modal_projector, model.model.vocabulary_head = projector.to(model.dtype), head.to(model.dtype)
    model.config = model.model.config = config


def score(targets: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """R² of the visual tokens, `(tokens, d)` in each batch, all their dimensions together."""
    target = torch.cat(list(targets)).double()
    difference = target - torch.cat(list(found))
    return (1 - difference.square().sum() / (target - target.mean(0)).square().sum()).item()

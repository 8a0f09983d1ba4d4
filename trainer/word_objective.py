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
"""Word assignment beside the caption loss: keeps coefficients words while a language model learns to read them."""

from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_langbridge import SharedVocabulary
from modeling_langbridge.modeling_langbridge import LangBridgeVocabularyHead

from .word_assignment import (
    CaptionWords,
    caption_of,
    has_words,
    pool_coefficients,
    weigh_words,
    word_assignment_loss,
    word_targets,
)


class WordObjective:
    """
    What a training run needs to add word assignment to its loss.

    TRL computes the caption loss around the model's own forward, so a hook on the vocabulary head notes the projected
    visual tokens that it is given; the coefficients are pooled from them when the loss is asked for.

    Args:
        model (`PreTrainedModel`): a LangBridge with `coefficient_activation` softmax or gated_softmax.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer, which names its words.
        dataset (`Dataset`): the training rows, whose words are counted.
        frequency_power (`float`): how much less frequent words count.
        entropy_weight (`float`): weight of the patches' mean entropy in the objective.

    Raises:
        `ValueError`: the adapter's coefficients are no distributions over words, or the rows are a stream.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset | IterableDataset,
        frequency_power: float,
        entropy_weight: float,
    ):
        model.config.require_words("`word_assignment_weight`")
        if model.config.coefficient_activation == "linear":
            raise ValueError("`word_assignment_weight` needs a softmax adapter: make one by scripts/ground.py.")
        if isinstance(dataset, IterableDataset):
            raise ValueError("`word_assignment_weight` counts the captions' words first: leave `streaming` out.")
        token_ids = model.model.vocabulary_head.token_ids.tolist()
        self.words = CaptionWords(SharedVocabulary.from_token_ids(tokenizer, token_ids))
        self.weights = weigh_words(self.words, dataset, frequency_power)
        self.entropy_weight = entropy_weight
        self.seen: tuple[LangBridgeVocabularyHead, torch.Tensor] | None = None
        self.num_images = 1

    def attach(self, model: nn.Module) -> None:
        """Watches whatever vocabulary head runs, PEFT's trained copy among them."""
        for module in model.modules():
            if isinstance(module, LangBridgeVocabularyHead):
                module.register_forward_hook(self._note)

    def _note(self, head: LangBridgeVocabularyHead, inputs: tuple, output: torch.Tensor) -> None:
        self.seen = head, inputs[0].to(head.weight.dtype)

    def targets(self, samples: list[dict[str, Any]]) -> torch.Tensor:
        """The words of each image's sample, `(images, V)`; a sample of several images has its words for each."""
        found = [self.words.find(caption_of(sample)) for sample in samples for _ in sample["images"]]
        return word_targets(found, self.weights)

    def count(self, batches: list[dict[str, Any]], accelerator: Accelerator) -> None:
        """Counts the images with words of a whole step, over its accumulated batches and all processes."""
        mine = sum(int(has_words(batch["word_targets"]).sum()) for batch in batches)
        self.num_images = int(accelerator.gather(torch.tensor([mine], device=accelerator.device)).sum())

    def loss(self, targets: torch.Tensor, num_images: int) -> dict[str, torch.Tensor]:
        """
        The terms of the batch that the model has just seen, summed over its images and divided by `num_images`.

        Returns:
            `dict` with `loss` and, detached, its terms `word_assignment` and `word_entropy`.
        """
        (pooled, entropy), self.seen = pool_coefficients(*self.seen), None
        if not len(targets):  # a batch of text alone, for which a blank image ran
            targets = pooled.new_zeros(pooled.shape)
        assignment = word_assignment_loss(pooled, targets, num_images)
        entropy = (has_words(targets) * entropy).sum() / max(num_images, 1)
        return {
            "loss": assignment + self.entropy_weight * entropy,
            "word_assignment": assignment.detach(),
            "word_entropy": entropy.detach(),
        }

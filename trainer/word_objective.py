# SPDX-License-Identifier: Apache-2.0
"""Word assignment beside the caption loss: keeps coefficients words while a language model learns to read them."""

from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_langbridge import SharedVocabulary
from modeling_langbridge.modeling_langbridge import LangBridgeVocabularyHead

from .objective import Objective
from .word_assignment import (
    CaptionWords,
    caption_of,
    has_words,
    weigh_words,
    word_assignment_loss,
    word_targets,
)


class WordObjective(Objective):
    """
    Word assignment: an image's pooled coefficients are to be the words of its caption.

    A hook on the vocabulary head notes the projected visual tokens that it is given; the coefficients are pooled from
    them when the loss is asked for.

    Args:
        weight (`float`): of word assignment beside the caption loss.
        frequency_power (`float`): how much less frequent words count.
        entropy_weight (`float`): weight of the patches' mean entropy in the objective.
        model (`PreTrainedModel`): a LangBridge with `coefficient_activation` softmax or gated_softmax.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer, which names its words.
        dataset (`Dataset`): the training rows, whose words are counted.

    Raises:
        `ValueError`: the adapter's coefficients are no distributions over words, or the rows are a stream.
    """

    name = "word_assignment"

    def __init__(
        self,
        weight: float,
        frequency_power: float,
        entropy_weight: float,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset | IterableDataset,
    ):
        super().__init__(weight)
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

    def attach(self, model: nn.Module) -> None:
        """Watches whatever vocabulary head runs, PEFT's trained copy among them."""
        for module in model.modules():
            if isinstance(module, LangBridgeVocabularyHead):
                module.register_forward_hook(self._note)

    def _note(self, head: LangBridgeVocabularyHead, inputs: tuple, output: torch.Tensor) -> None:
        # With label smoothing, TRL follows a training step's forward pass by one without gradients.
        if torch.is_grad_enabled() or not head.training:
            self.seen = head, inputs[0].to(head.weight.dtype)

    def targets(self, samples: list[dict[str, Any]]) -> torch.Tensor:
        """The words of each image's sample, `(images, V)`; a sample of several images has its words for each."""
        found = [self.words.find(caption_of(sample)) for sample in samples for _ in sample["images"]]
        return word_targets(found, self.weights)

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"targets": self.targets(samples)}

    def count(self, batch: dict[str, torch.Tensor]) -> int:
        return int(has_words(batch["targets"]).sum())

    def sums(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], accelerator: Accelerator
    ) -> dict[str, torch.Tensor]:
        (head, hidden_states), self.seen = self.seen, None
        pooled, entropy, _ = head.pool(hidden_states)  # (images, V), (images,)
        targets = batch["targets"]
        if not len(targets):  # a batch of text alone, for which a blank image ran
            targets = pooled.new_zeros(pooled.shape)
        assignment = word_assignment_loss(pooled, targets, num_images=1)
        entropy = (has_words(targets) * entropy).sum()
        loss = assignment + self.entropy_weight * entropy
        return {"loss": loss, "word_assignment": assignment, "word_entropy": entropy}

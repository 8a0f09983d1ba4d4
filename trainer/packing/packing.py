# SPDX-License-Identifier: Apache-2.0
"""Packing image-text samples, which TRL refuses: the trainer's part of it."""

from typing import Any

from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

from ..data.packing import PackedDataset
from .exactness import require_exact_packing


def samples_of(dataset: Any) -> Any:
    """The samples of a dataset, which may be in bins."""
    return dataset.samples if isinstance(dataset, PackedDataset) else dataset


class PackingMixin:
    """
    Before [`~trl.SFTTrainer`] among a trainer's bases: lets it take a [`~trainer.data.packing.PackedDataset`], and
    counts the tokens of its batches.

    Raises:
        `ValueError`: the language model does not keep the samples of a sequence apart.
    """

    def __init__(self, model: PreTrainedModel, args: SFTConfig, train_dataset: Any, **kwargs: Any):
        packing = args.packing, args.eval_packing
        if any(packing):
            require_exact_packing(model.model.language_model)
        # TRL refuses the first where there are images. What else does not go with packing, it sees by the second.
        args.packing, args.eval_packing = False, any(packing)
        try:
            super().__init__(model, args, train_dataset=samples_of(train_dataset), **kwargs)
        finally:
            args.packing, args.eval_packing = packing
        self.train_dataset = train_dataset

    def compute_loss(self: SFTTrainer, model: Any, inputs: dict[str, Any], **kwargs: Any):
        num_tokens, counted = inputs.pop("num_tokens", None), self._total_train_tokens
        result = super().compute_loss(model, inputs, **kwargs)
        if num_tokens is not None and self.model.training:
            # TRL takes the length of a batch without a mask for its number of tokens.
            self._total_train_tokens = counted + self.accelerator.gather_for_metrics(num_tokens).sum().item()
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return result

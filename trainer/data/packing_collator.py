# SPDX-License-Identifier: Apache-2.0
"""Bins to a batch: the samples of a bin are one sequence, in which each stays on its own."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from .collator import ConversationCollator
from .faults import SampleError


@dataclass
class PackingCollator(ConversationCollator):
    """
    [`~trainer.data.collator.ConversationCollator`] for bins, as [`~trainer.data.packing.PackedDataset`] gives them.

    The positions begin again at every sample, and there is no attention mask. By that, transformers knows that the
    sequences are packed, and lets each sample attend to itself alone: `find_packed_sequence_indices` in its
    `masking_utils`, and `_is_packed_sequence` for flash attention, which knows a single sequence only. The position of
    padding is 0, so that each of its tokens is a sample of its own.

    Rows that are no bins, those of an evaluation without packing, make a padded batch.

    Args:
        max_length (`int`, *optional*): the most tokens of a bin.
        flat (`bool`, *optional*, defaults to `False`): put all bins into a single sequence, for flash attention.

    Returns, when called with a list of bins:
        `dict` with `input_ids`, `labels` and `position_ids`, `(bins, sequence)` or `(1, sequence)`; `num_tokens` `()`,
        padding left out; and the other entries of a batch of the same samples. The first token of a sample is no
        target: nothing precedes it.

    Raises:
        `ValueError`: also where the samples of a bin have more tokens than were counted.
    """

    max_length: int | None = None
    flat: bool = False

    def __call__(self, bins: list[list[dict[str, Any]]]) -> dict[str, Any]:
        if isinstance(bins[0], dict):
            return super().__call__(bins)
        packed = [[self.encode(row) for row in rows] for rows in bins]
        for samples in packed:
            num_tokens = sum(len(sample["input_ids"]) for sample in samples)
            if self.max_length is not None and num_tokens > self.max_length:
                names = ", ".join(sample["id"] for sample in samples)
                raise SampleError(
                    "too long",
                    f"the samples {names} have {num_tokens} tokens together, more than `max_length` "
                    f"{self.max_length}: the data's column of lengths is wrong; without it, tokens are counted.",
                )
        samples = list(chain.from_iterable(packed))
        if self.flat:
            packed = [samples]
        input_ids = [join([sample["input_ids"] for sample in samples]) for samples in packed]
        labels = [join([[-100, *sample["labels"][1:]] for sample in samples]) for samples in packed]
        positions = [join([range(len(sample["input_ids"])) for sample in samples]) for samples in packed]
        pad_token_id = self.encoder.tokenizer.pad_token_id
        batch = {
            "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=pad_token_id),  # (bins, sequence)
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
            "position_ids": pad_sequence(positions, batch_first=True),
            "num_tokens": torch.tensor(sum(map(len, input_ids))),
        }
        return batch | self.describe(samples)


def join(parts: list[Any]) -> torch.Tensor:
    return torch.tensor(list(chain.from_iterable(parts)))

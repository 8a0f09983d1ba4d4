# SPDX-License-Identifier: Apache-2.0
"""Samples to a batch that each of several language models can take: their tokens differ, their images are the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.collator import ConversationCollator, pad
from ..data.conversations import ConversationEncoder
from ..data.faults import SampleError
from ..data.samples import naming


@dataclass
class SeveralCollator(ConversationCollator):
    """
    [`~trainer.data.collator.ConversationCollator`] for several language models. The images are opened once.

    Args:
        others (`Sequence[tuple[ConversationEncoder, int | None]]`):
            The encoders of the language models after the first, and the most tokens that each can read.

    Returns, when called with a list of rows:
        `dict` with `turns`, for each language model its `input_ids`, `attention_mask` and `labels`, `(batch,
        sequence)`; and the other entries of a batch.
    """

    others: Sequence[tuple[ConversationEncoder, int | None]] = ()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        samples = [self.encode(row) for row in rows]
        turns = [pad(samples, self.encoder.tokenizer.pad_token_id)]
        for encoder, context in self.others:
            turns.append(pad([encode(sample, encoder, context) for sample in samples], encoder.tokenizer.pad_token_id))
        return {"turns": turns, **self.describe(samples)}


def encode(sample: dict[str, Any], encoder: ConversationEncoder, context: int | None) -> dict[str, Any]:
    """A sample that was read before, in another language model's tokens."""
    with naming(sample):
        encoded = encoder.encode(sample)
        if context is not None and len(encoded["input_ids"]) > context:
            raise SampleError(
                "too long",
                f"sample {sample['id']} has {len(encoded['input_ids'])} tokens of {encoder.tokenizer.name_or_path}, "
                f"more than its context of {context}: leave the sample or the language model out.",
            )
    return encoded

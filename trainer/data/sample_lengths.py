# SPDX-License-Identifier: Apache-2.0
"""Samples that are too long are found before training, by name; nothing is ever cut."""

import logging
from typing import Any, NoReturn

from datasets import Dataset, IterableDataset

from .conversations import ConversationEncoder
from .faults import SampleError
from .samples import naming


logger = logging.getLogger(__name__)


def count_tokens(dataset: Dataset, encoder: ConversationEncoder, num_proc: int | None = None) -> Dataset:
    """The name of each sample, `sample`, its number of tokens, `num_tokens`, and those of its images among them."""

    def count(row: dict[str, Any]) -> dict[str, Any]:
        return count_row(row, encoder)

    logger.info("Counting the tokens of %s samples.", len(dataset))
    return dataset.map(count, remove_columns=dataset.column_names, num_proc=num_proc, desc="Counting tokens")


def count_row(row: dict[str, Any], encoder: ConversationEncoder) -> dict[str, Any]:
    with naming(row):
        sample = encoder.encode(row)
    num_tokens, num_image_tokens = len(sample["input_ids"]), sum(sample["num_image_tokens"])
    return {"sample": sample["id"], "num_tokens": num_tokens, "num_image_tokens": num_image_tokens}


def without_too_long(
    dataset: Dataset | IterableDataset,
    encoder: ConversationEncoder,
    max_length: int,
    too_long: str,
    num_proc: int | None = None,
) -> Dataset | IterableDataset:
    """
    Sees that no sample has more than `max_length` tokens, those of its images counted.

    Args:
        dataset (`Dataset` or `IterableDataset`): rows as the collator reads them; a stream is checked as it flows.
        encoder ([`~trainer.data.conversations.ConversationEncoder`]): what counts the tokens.
        max_length (`int`): the most tokens a sample may have.
        too_long (`str`): `"drop"` leaves longer ones out, and says which; `"error"` refuses them.
        num_proc (`int`, *optional*): processes to count with.

    Raises:
        [`SampleError`]: with `"error"`, names a sample that is too long.
    """

    num_dropped = 0

    def fits(row: dict[str, Any]) -> bool:
        nonlocal num_dropped
        counted = count_row(row, encoder)
        if counted["num_tokens"] <= max_length:
            return True
        if too_long == "error":
            refuse(encoder, max_length, **counted)
        num_dropped += 1
        logger.warning(
            "Dropped sample %s: it has %s tokens, more than %s (%s dropped so far).",
            *(counted["sample"], counted["num_tokens"], max_length, num_dropped),
        )
        return False

    if isinstance(dataset, IterableDataset):
        return dataset.filter(fits)
    counted = count_tokens(dataset, encoder, num_proc)
    fitting = find_fitting(counted, encoder, max_length, too_long)
    return dataset if len(fitting) == len(dataset) else dataset.select(fitting)


def find_fitting(counted: Dataset, encoder: ConversationEncoder, max_length: int, too_long: str) -> list[int]:
    """
    The positions of the samples that have at most `max_length` tokens, of those that `count_tokens` counted.

    Raises:
        [`SampleError`]: with `too_long` `"error"`, names a sample that is too long.
        `ValueError`: all are too long.
    """
    lengths = list(counted["num_tokens"])
    dropped = [index for index, num_tokens in enumerate(lengths) if num_tokens > max_length]
    if dropped and too_long == "error":
        refuse(encoder, max_length, **counted[dropped[0]], more=len(dropped) - 1)
    if dropped and len(dropped) == len(counted):
        raise ValueError(f"All {len(counted)} samples have more than `max_length` {max_length} tokens: raise it.")
    if dropped:
        names = ", ".join(f"sample {name}" for name in counted[dropped[:5]]["sample"])
        logger.warning(
            "Dropped %s of %s samples, longer than %s tokens: %s%s.",
            *(len(dropped), len(counted), max_length, names, ", ..." if len(dropped) > 5 else ""),
        )
    return [index for index, num_tokens in enumerate(lengths) if num_tokens <= max_length]


def refuse(
    encoder: ConversationEncoder, max_length: int, sample: str, num_tokens: int, num_image_tokens: int, more: int = 0
) -> NoReturn:
    others = f", and {more} more samples are too long" if more else ""
    raise SampleError(
        "too long",
        f"sample {sample} has {num_tokens} tokens, more than `max_length` {max_length}{others}: set `too_long` to "
        f"drop, or raise `max_length`{encoder.advise(num_image_tokens)}.",
    )

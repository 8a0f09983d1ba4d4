# SPDX-License-Identifier: Apache-2.0
"""Several samples in one sequence: which samples share a bin, and a dataset of bins."""

import bisect
import logging
import random
from collections import defaultdict
from typing import Any

from datasets import Dataset, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from .conversations import ConversationEncoder
from .sample_lengths import count_tokens, find_fitting


logger = logging.getLogger(__name__)


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """
    Puts items into bins: the longest first, each into the bin that it leaves the least room in.

    Args:
        lengths (`list[int]`): of the items, each from 1 to `capacity`. Of equal ones, the first comes first.
        capacity (`int`): the most that a bin holds.

    Returns:
        `list[list[int]]`: for each bin the positions of its items.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[list[int]]] = defaultdict(list)  # the bins that have so much room left
    rooms: list[int] = []  # the keys of `with_room`, in order
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        length = lengths[position]
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            room, chosen = capacity, []
            bins.append(chosen)
        else:
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        chosen.append(position)
        left = room - length
        if left:
            if left not in with_room:
                bisect.insort(rooms, left)
            with_room[left].append(chosen)
    return bins


class PackedDataset(TorchDataset):
    """
    Samples in bins; an item is the list of a bin's samples.

    Args:
        samples (`Dataset`): rows as the collator reads them.
        bins (`list[list[int]]`): for each bin the positions of its samples.
        capacity (`int`): the most tokens of a bin.
    """

    def __init__(self, samples: Dataset, bins: list[list[int]], capacity: int):
        self.samples, self.bins, self.capacity = samples, bins, capacity

    def __len__(self) -> int:
        return len(self.bins)

    @property
    def samples_a_bin(self) -> float:
        """Their mean."""
        return len(self.samples) / len(self.bins)

    def __getitem__(self, position: int) -> list[dict[str, Any]]:
        return [self.samples[sample] for sample in self.bins[position]]


def pack(
    dataset: Dataset | IterableDataset,
    encoder: ConversationEncoder,
    max_length: int,
    too_long: str,
    length_column_name: str = "length",
    seed: int = 0,
    num_proc: int | None = None,
) -> PackedDataset:
    """
    Packs samples into bins by their numbers of tokens, those of their images counted; no sample is cut.

    Samples of equal length are shuffled first, so that captions of one photo, which lie side by side in a file, do not
    gather in a bin.

    Args:
        dataset (`Dataset`): rows as the collator reads them.
        encoder ([`~trainer.data.conversations.ConversationEncoder`]): what counts the tokens.
        max_length (`int`): the most tokens of a bin.
        too_long (`str`): `"drop"` leaves samples out that are longer, and says which; `"error"` refuses them.
        length_column_name (`str`, *optional*, defaults to `"length"`):
            A column that holds the samples' numbers of tokens. They are counted where it is missing, or says of a
            sample that it is empty or too long.
        seed (`int`, *optional*, defaults to 0): of the shuffling.
        num_proc (`int`, *optional*): processes to count with.

    Raises:
        [`SampleError`]: with `"error"`, names a sample that is too long.
        `ValueError`: the dataset is a stream.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError("`packing` needs the lengths of all samples first: leave it or `streaming` out.")
    lengths = list(dataset[length_column_name]) if length_column_name in dataset.column_names else [None]
    if not all(isinstance(length, int) and 1 <= length <= max_length for length in lengths):
        counted = count_tokens(dataset, encoder, num_proc)
        fitting = find_fitting(counted, encoder, max_length, too_long)
        lengths = list(counted["num_tokens"])
        if len(fitting) < len(dataset):
            dataset, lengths = dataset.select(fitting), [lengths[position] for position in fitting]
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    bins = best_fit_decreasing([lengths[position] for position in order], max_length)
    bins = [[order[place] for place in places] for places in bins]
    filled = sum(lengths) / (len(bins) * max_length)
    logger.info(
        "Packed %s samples into %s bins of %s tokens, which are %.1f %% full.",
        *(f"{len(lengths):,}", f"{len(bins):,}", f"{max_length:,}", 100 * filled),
    )
    return PackedDataset(dataset, bins, max_length)

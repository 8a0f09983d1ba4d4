# SPDX-License-Identifier: Apache-2.0
"""Bins: every sample is in one, none is cut, and bins are full."""

import logging
import random
from itertools import pairwise

import pytest
from datasets import Dataset
from tiny_parts import make_image

from trainer.data.conversations import ConversationEncoder
from trainer.data.packing import best_fit_decreasing, pack
from trainer.data.sample_lengths import count_tokens


@pytest.fixture
def encoder(processor) -> ConversationEncoder:
    return ConversationEncoder(processor)


def row(name: str, num_words: int, num_images: int = 0) -> dict:
    messages = [
        {"role": "user", "content": "<image>" * num_images + "what?"},
        {"role": "assistant", "content": "dog " * num_words},
    ]
    return {"id": name, "images": [make_image()] * num_images, "messages": messages}


ROWS = Dataset.from_list([row(str(number), 2 + 7 * (number % 5), number % 3) for number in range(30)])


def test_each_item_goes_into_the_fullest_bin_that_it_fits():
    # 7 and 6 open a bin each; 4 fits behind 6 alone and fills it, 3 fills the other, and 2 needs a third.
    assert best_fit_decreasing([2, 6, 3, 7, 4], 10) == [[3, 2], [1, 4], [0]]
    # 3 fits behind 7 and behind 6, and leaves less room behind 7.
    assert best_fit_decreasing([3, 6, 7], 10) == [[2, 0], [1]]
    assert best_fit_decreasing([4, 3, 3], 10) == [[0, 1, 2]]
    assert best_fit_decreasing([], 10) == []


@pytest.mark.parametrize("capacity", [64, 100, 1000])
def test_bins_hold_every_item_once_and_never_too_much(capacity):
    lengths = random.Random(capacity).choices(range(1, 65), k=500)
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(position for content in bins for position in content) == list(range(500))
    filled = [sum(lengths[position] for position in content) for content in bins]
    assert max(filled) <= capacity
    # Best fit decreasing needs at most 11/9 of the fewest bins possible, and a third of a bin.
    assert len(bins) <= 11 / 9 * -(-sum(lengths) // capacity) + 1


def test_a_bin_is_a_list_of_whole_samples_of_at_most_so_many_tokens(encoder):
    packed = pack(ROWS, encoder, 150, "error")
    assert 3 < len(packed) < 30
    names = [sample["id"] for content in (packed[place] for place in range(len(packed))) for sample in content]
    assert sorted(names, key=int) == [str(number) for number in range(30)]
    for place in range(len(packed)):
        assert sum(map(encoder.length, packed[place])) <= 150


def test_bins_are_the_same_for_the_same_seed_alone(encoder):
    first, again, other = (pack(ROWS, encoder, 150, "error", seed=seed).bins for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_captions_of_one_photo_do_not_gather(encoder):
    packed = pack(Dataset.from_list([row(str(number), 3, 1) for number in range(60)]), encoder, 5 * 45, "error")
    neighbours = [abs(one - other) == 1 for content in packed.bins for one, other in pairwise(content)]
    assert sum(neighbours) < len(neighbours) / 4


@pytest.mark.parametrize("too_long", ["error", "drop"])
def test_a_sample_longer_than_a_bin_is_refused_or_dropped_by_name(encoder, caplog, too_long):
    rows = Dataset.from_list([row("short", 2), row("long", 300), row("other", 4)])
    if too_long == "error":
        with pytest.raises(ValueError, match="sample long has .* tokens, more than `max_length` 150: set `too_long`"):
            pack(rows, encoder, 150, too_long)
        return
    with caplog.at_level(logging.WARNING, "trainer"):
        packed = pack(rows, encoder, 150, too_long)
    assert "Dropped 1 of 3 samples" in caplog.text and "sample long" in caplog.text
    assert sorted(sample["id"] for sample in packed[0]) == ["other", "short"]


def test_lengths_that_the_samples_bring_are_not_counted(encoder, monkeypatch):
    lengths = count_tokens(ROWS, encoder)["num_tokens"]
    expected = pack(ROWS, encoder, 150, "error").bins
    monkeypatch.setattr("trainer.data.packing.count_tokens", None)
    assert pack(ROWS.add_column("length", list(lengths)), encoder, 150, "error").bins == expected
    assert pack(ROWS.add_column("tokens", list(lengths)), encoder, 150, "error", "tokens").bins == expected


@pytest.mark.parametrize("lengths", [[0] * 30, [1000] * 30, [None] * 30, ["long"] * 30])
def test_lengths_that_cannot_be_are_counted(encoder, lengths):
    rows = ROWS.add_column("length", lengths)
    assert pack(rows, encoder, 150, "error").bins == pack(ROWS, encoder, 150, "error").bins


def test_a_stream_is_refused(encoder):
    with pytest.raises(ValueError, match="`packing` needs the lengths .*leave it or `streaming` out"):
        pack(ROWS.to_iterable_dataset(), encoder, 150, "error")

# SPDX-License-Identifier: Apache-2.0
"""The benchmark of packing: the same samples in batches of each kind, and a row for each."""

import random
import shutil

import pytest
from tiny_parts import make_tokenizer
from tiny_training import write_samples

from experiments.benchmarks.packing import make_batches, measure


LENGTHS = random.Random(0).choices(range(20, 100), k=640)


def test_batches_of_each_kind_hold_the_samples_and_bins_pad_least():
    shuffled, by_length, packed = make_batches(LENGTHS, 32, [1000])
    assert packed.name == "packed, max_length 1000"
    for kind in (shuffled, by_length, packed):
        samples = [sample for batch in kind.batches for sequence in batch for sample in sequence]
        assert sorted(samples) == list(range(640))
    assert all(len(batch) == 32 and all(len(sequence) == 1 for sequence in batch) for batch in shuffled.batches)
    assert shuffled.padded(LENGTHS) > 1.3
    assert 1 <= packed.padded(LENGTHS) < by_length.padded(LENGTHS) + 0.05 < 1.2


@pytest.mark.parametrize(("tokens", "rounds"), [([8, 49], 0), ([49], 1)])
def test_every_kind_is_measured(tmp_path, tokens, rounds):
    data, tokenizer = tmp_path / "data", tmp_path / "tokenizer"
    data.mkdir()
    samples = write_samples(tmp_path, number=24)
    for name in ("pretrain_flickr8k.json", "instruct_mix.json"):
        shutil.copy(samples, data / name)
    make_tokenizer().save_pretrained(tokenizer)
    rows = list(measure(data, tokenizer, tokens, 4, [40, 300], rounds))
    # Two of the longest do not fit into a bin of 40 tokens.
    kinds = ["shuffled", "group_by_length", "packed, max_length 300"]
    assert [row["batches"] for row in rows] == kinds * 3 * len(tokens)
    assert [row["visual tokens"] for row in rows] == [number for number in tokens for _ in range(9)]
    assert all(row["places"] >= 1 for row in rows)
    assert all(("ratio" in row) == (rounds > 0) for row in rows)


def test_visual_tokens_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="An image cannot have 50 visual tokens here: give 8, or a square"):
        next(measure(tmp_path, tmp_path, [50], 4, [300], 0))

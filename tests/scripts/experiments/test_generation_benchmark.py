# SPDX-License-Identifier: Apache-2.0
"""The multiply-adds of a caption, counted on tensors without content, are those of generating it."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from experiments.benchmarks.caption_work import count_caption
from experiments.benchmarks.generation import make_inputs, make_run, make_ways
from experiments.benchmarks.measuring import Timing, measure
from experiments.benchmarks.shapes import Shapes
from trainer.planning.counted_products import CountedProducts
from trainer.planning.simulated_step import fake_weights_pass


SCRIPT = "scripts/benchmark.py"
SHAPES = Shapes(0.125, layers=1, image_size=56, vocab_size=4000)
KINDS = ["langbridge", "words"]
NAMES = ["LLaVA", "LangBridge", "LangBridge, 8 words"]
TOKENS = 3


@pytest.fixture(scope="module")
def ways():
    torch.manual_seed(0)
    return make_ways(SHAPES, KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_counted_work_is_that_of_generation(ways, name):
    way = ways[name]
    way.model.eval()
    first, inputs = Timing(), make_inputs(way, SHAPES, 1, "cpu")
    run = make_run(way, inputs, TOKENS, first)
    run()  # folds the adapter
    with CountedProducts() as real:
        run()
    with CountedProducts() as looking, torch.no_grad():
        way.model.get_image_features(inputs["pixel_values"])
    assert len(first.seconds) == 2
    with FakeTensorMode(), fake_weights_pass():
        fake = make_ways(SHAPES, KINDS)[name]
        counted = count_caption(fake.model.eval(), make_inputs(fake, SHAPES, 1, "cpu"), TOKENS)
    assert sum(counted) == real.multiply_adds.total()
    assert counted[0] == looking.multiply_adds.total()
    assert all(counted)


def test_the_first_token_is_there_before_the_last(ways):
    first = Timing()
    run = make_run(ways["LLaVA"], make_inputs(ways["LLaVA"], SHAPES, 1, "cpu"), 20, first)
    whole = measure({"LLaVA": run}, rounds=2)["LLaVA"]
    first.drop_first_round()
    assert all(0 < one < all_of_it for one, all_of_it in zip(first.seconds, whole.seconds, strict=True))


def test_ways_share_parts_and_words_stand_for_patches(ways):
    llava, langbridge, words = (ways[name] for name in NAMES)
    assert (
        llava.model.model.language_model is langbridge.model.model.language_model is words.model.model.language_model
    )
    assert (llava.image_tokens, words.image_tokens) == (16, 8)
    assert words.model.config.words_per_image == 8
    assert langbridge.model.config.words_per_image is None


def test_the_command_counts_the_whole_size_beside_the_one_it_times(run_script):
    sizes = ("--scale", "0.125", "--layers", "1", "--ways", "words", "--new_tokens", "2")
    printed = run_script("generation", *sizes, "--batch_sizes", "1", "--rounds", "1")
    assert [line.split(":")[0] for line in printed.splitlines() if line.startswith("**")] == [
        "**Multiply-adds of a caption",
        "**Multiply-adds of a caption",
        "**Batch 1",
    ]
    assert "d 112, 1 layers" in printed
    assert "d 896, 1 layers" in printed
    assert printed.count("| LangBridge, 8 words |") == 3

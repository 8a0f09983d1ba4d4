# SPDX-License-Identifier: Apache-2.0
"""How benchmarks measure: in turn, by medians of ratios, with the work counted from the operations themselves."""

import json
import sys
import time

import pytest
import torch
from documents import code_blocks
from paths import ROOT
from tiny_training import load_script
from torch.nn import functional as F

from experiments.benchmarks.adapter import FEATURE_SIZE, make_adapter
from experiments.benchmarks.measuring import PRODUCT, Timing, count_work, measure, with_product
from experiments.benchmarks.models import OriginalOrder, make_batch, make_langbridge, with_head
from experiments.benchmarks.shapes import Shapes
from experiments.benchmarks.tables import Table, compare


SCRIPT = "scripts/benchmark.py"


def test_ways_are_run_in_turn_and_the_first_round_does_not_count():
    calls = []
    timings = measure({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3]


def test_a_ratio_is_that_of_rounds_and_not_of_medians():
    first, other = Timing([1, 10, 2], [1, 10, 2]), Timing([2, 20, 4], [2, 20, 4])
    assert other.ratio_to(first) == 2
    assert Timing([9, 1, 1], [2, 1, 20]).ratio_to(first) == 2


def test_time_that_is_computed_counts_and_not_time_that_is_slept():
    timing = measure({"sleep": lambda: time.sleep(0.05)}, rounds=1)["sleep"]
    assert timing.seconds[0] >= 0.05 > 0.04 > timing.compared[0]


def test_work_is_counted_from_the_operations():
    left, right = torch.randn(8, 16), torch.randn(16, 32)
    work = count_work(lambda: (left @ right).T)
    assert work.multiply_adds == 8 * 16 * 32
    assert work.bytes == 4 * (8 * 16 + 16 * 32 + 8 * 32)  # a transposed view moves nothing
    assert work.largest == 8 * 32


def test_attention_counts_on_a_cpu_as_elsewhere():
    query = torch.randn(1, 2, 16, 8)
    work = count_work(lambda: F.scaled_dot_product_attention(query, query, query))
    assert work.multiply_adds == 2 * 2 * 16 * 16 * 8  # two heads, scores and their sums


def test_a_table_shows_shares_of_the_machines_own_product():
    ways = with_product({"plain": lambda: F.relu(torch.ones(4)), "twice": lambda: torch.ones(4)}, torch.float32, "cpu")
    timings = measure(ways, rounds=1)
    work = {name: count_work(way) for name, way in ways.items()}
    table = compare("A title", timings, work)
    assert [row[0] for row in table.rows] == ["plain", "twice"]
    assert PRODUCT not in str(table)
    assert table.columns[-1] == "of the peak"


def test_tables_are_markdown():
    table = Table("A title", ["", "n"], [["x", 1234], ["y", 0.123456]], ["A note."])
    assert str(table) == "**A title**\n\n|  | n |\n| --- | ---: |\n| x | 1,234 |\n| y | 0.123 |\n\nA note."


def test_the_original_order_gives_the_same_tokens():
    shapes = Shapes(0.125, image_size=28, layers=1, vocab_size=100)
    langbridge = make_langbridge(shapes, bridge_vocab_size=60, projector_hidden_size=64).train()
    pixel_values = make_batch(shapes, 2)["pixel_values"]
    found = [
        torch.stack(model.get_image_features(pixel_values).pooler_output)
        for model in (langbridge, with_head(langbridge, OriginalOrder).train())
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("tokens", [64, 256])
def test_a_training_step_makes_no_tensor_of_tokens_times_words(tokens):
    """Nor does the original order escape the count."""
    features, words = torch.randn(2, tokens, FEATURE_SIZE), 4096

    def step(adapter):
        return count_work(lambda: adapter(features).sum().backward()).largest

    assert step(make_adapter(64, words, 48).train()) < 2 * tokens * words
    assert step(make_adapter(64, words, 48, OriginalOrder).train()) == 2 * tokens * words


def test_the_command_prints_tables_and_writes_them(run_script, tmp_path):
    sizes = ("--tokens", "64", "--words", "300", "--projector_hidden_size", "48", "--width", "32", "--images", "1")
    printed = run_script("adapter", *sizes, "--rounds", "1", "--json", tmp_path / "found.json")
    assert "| LangBridge, original order |" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert [table["rows"][0][0] for table in found["tables"]] == ["LLaVA's MLP, d wide"] * 2
    assert found["machine"]["torch"] == torch.__version__


COMMANDS = [
    command
    for page in sorted((ROOT / "docs").glob("*.md"))
    for _, content in code_blocks(page)
    for command in content.replace("\\\n", "").splitlines()
    if "python scripts/benchmark.py " in command
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_documents_have_options_that_are_known(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", command.partition("python ")[2].split())
    assert load_script("benchmark").parse_arguments().question in command


def test_every_question_is_asked_in_the_documents():
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert [question for question in load_script("benchmark").QUESTIONS if question not in pages] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(run_script):
    assert "--device cuda: torch finds no GPU here" in run_script("ladder", "--device", "cuda")


def test_a_scale_that_heads_do_not_divide_is_refused(run_script):
    assert "choose from 0.125, 0.25, 0.5, 1.0" in run_script("training_step", "--scale", "0.3")

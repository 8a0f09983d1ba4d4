# SPDX-License-Identifier: Apache-2.0
"""Generation: transformers' LLaVA, ours folded, eight words per image, and a static cache. An export is a LLaVA.

The first image, which folds the adapter, is not counted. Time to first token is that of one new token: tower, adapter,
the language model's reading of the prompt. Beside what is timed, the multiply-adds of a caption are counted, at the
size that is timed and at the whole one.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch._subclasses import FakeTensorMode
from transformers import PreTrainedModel

from trainer.planning.simulated_step import fake_weights_pass

from .caption_work import count_caption
from .measuring import Stopwatch, Timing, measure
from .models import make_batch, make_langbridge, make_llava, with_head
from .shapes import Shapes
from .tables import Table, spread


WORDS_PER_IMAGE = 8
TEXT_TOKENS = 32


class Way(NamedTuple):
    """A model, the visual tokens that it gives an image, and how it generates."""

    model: PreTrainedModel
    image_tokens: int
    options: dict[str, str] = {}


def answer(arguments: argparse.Namespace) -> list[Table]:
    shapes = Shapes(arguments.scale, arguments.shape, arguments.layers, arguments.projector_hidden_size)
    ways = make_ways(shapes, arguments.ways)
    for way in ways.values():
        way.model.to(arguments.device).eval()
    counted = [count_at(size, arguments) for size in (shapes, replace(shapes, scale=1.0))]
    return [*counted, *(compare_at(batch_size, ways, shapes, arguments) for batch_size in arguments.batch_sizes)]


def make_ways(shapes: Shapes, kinds: list[str]) -> dict[str, Way]:
    langbridge, tokens = make_langbridge(shapes), shapes.num_image_tokens
    ways = {"LLaVA": Way(make_llava(shapes, langbridge), tokens)}
    if "langbridge" in kinds:
        ways["LangBridge"] = Way(langbridge, tokens)
    if "words" in kinds:
        words = with_head(langbridge, coefficient_activation="softmax", words_per_image=WORDS_PER_IMAGE)
        ways[f"LangBridge, {WORDS_PER_IMAGE} words"] = Way(words, WORDS_PER_IMAGE)
    if "static_cache" in kinds:
        static = {"cache_implementation": "static"}
        ways["LLaVA, static cache"] = Way(ways["LLaVA"].model, tokens, static)
        ways["LangBridge, static cache"] = Way(langbridge, tokens, static)
    return ways


def make_inputs(way: Way, shapes: Shapes, images: int, device: str) -> dict[str, torch.Tensor]:
    batch = make_batch(shapes, images, TEXT_TOKENS, way.image_tokens, device)
    del batch["labels"]
    return batch


def count_at(shapes: Shapes, arguments: argparse.Namespace) -> Table:
    """A table of multiply-adds, each way against the first; how the cache is kept does not change them."""
    with FakeTensorMode(), fake_weights_pass():  # without content, so that the whole size fits any machine
        ways = make_ways(shapes, [kind for kind in arguments.ways if kind != "static_cache"])
        counts = {
            name: count_caption(way.model.eval(), make_inputs(way, shapes, 1, "cpu"), arguments.new_tokens)
            for name, way in ways.items()
        }
    rows = [
        [name, *(f"{part:.2e}" for part in (*parts, sum(parts))), f"{sum(parts) / sum(counts['LLaVA']):.3f}"]
        for name, parts in counts.items()
    ]
    title = f"Multiply-adds of a caption: {describe(shapes, arguments)}"
    return Table(title, ["", "image", "prompt", "new tokens", "all", "against LLaVA"], rows)


def compare_at(batch_size: int, ways: dict[str, Way], shapes: Shapes, arguments: argparse.Namespace) -> Table:
    first = {name: Timing() for name in ways}
    runs = {
        name: make_run(way, make_inputs(way, shapes, batch_size, arguments.device), arguments.new_tokens, first[name])
        for name, way in ways.items()
    }
    whole = measure(runs, arguments.rounds, arguments.device)
    for timing in first.values():
        timing.drop_first_round()
    return table(f"Batch {batch_size}: {describe(shapes, arguments)}", first, whole, arguments.new_tokens, batch_size)


def describe(shapes: Shapes, arguments: argparse.Namespace) -> str:
    text = shapes.text()
    return (
        f"{shapes.num_image_tokens} visual tokens, {arguments.new_tokens} new ones; d {text.hidden_size:,}, "
        f"{text.num_hidden_layers} layers, H {shapes.times(shapes.projector_hidden_size):,}, V {shapes.words:,}"
    )


def table(title: str, first: dict[str, Timing], whole: dict[str, Timing], tokens: int, batch_size: int) -> Table:
    columns = ["", "first token, s", "against LLaVA", "all, s", "fastest to slowest", "against LLaVA"]
    columns += ["tokens/s after the first", "images/s"]
    rows = []
    for name in whole:
        after = whole[name].median - first[name].median
        rows.append(
            [
                name,
                first[name].median,
                f"{first[name].ratio_to(first['LLaVA']):.3f}",
                whole[name].median,
                spread(whole[name].seconds),
                f"{whole[name].ratio_to(whole['LLaVA']):.3f}",
                (tokens - 1) * batch_size / after,
                batch_size / whole[name].median,
            ]
        )
    return Table(title, columns, rows)


def make_run(way: Way, inputs: dict[str, torch.Tensor], tokens: int, first: Timing) -> Callable[[], None]:
    """A way's generation of so many tokens, which adds the time to the first one to a timing."""

    @torch.no_grad()
    def run() -> None:
        watch, images = Stopwatch(inputs["input_ids"].device.type), len(inputs["input_ids"])

        def note_first_token(sequences: torch.Tensor, scores: object, **kwargs) -> torch.Tensor:
            if sequences.shape[1] == inputs["input_ids"].shape[1] + 1:
                watch.read(first)
            return torch.zeros(images, dtype=torch.bool, device=sequences.device)

        options = {**way.options, "stopping_criteria": [note_first_token], "do_sample": False}
        way.model.generate(**inputs, **options, max_new_tokens=tokens, min_new_tokens=tokens)

    return run

# SPDX-License-Identifier: Apache-2.0
"""Generation: transformers' LLaVA, ours folded, eight words per image, and a static cache. An export is a LLaVA.

The first image, which folds the adapter, is not counted. Time to first token is that of one new token: tower, adapter,
the language model's reading of the prompt.
"""

import argparse
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from .measuring import Timing, measure
from .models import Shapes, make_batch, make_langbridge, make_llava, with_parts_of
from .tables import Table


WORDS_PER_IMAGE = 8


def answer(arguments: argparse.Namespace) -> list[Table]:
    shapes = Shapes(arguments.scale, layers=arguments.layers, projector_hidden_size=arguments.projector_hidden_size)
    langbridge = make_langbridge(shapes)
    words = make_langbridge(shapes, coefficient_activation="softmax", words_per_image=WORDS_PER_IMAGE)
    models = {
        "LLaVA": make_llava(shapes, langbridge),
        "LangBridge": langbridge,
        f"LangBridge, {WORDS_PER_IMAGE} words": with_parts_of(words, langbridge),
    }
    for model in models.values():
        model.to(arguments.device).eval()
    return [compare_at(batch_size, models, shapes, arguments) for batch_size in arguments.batch_sizes]


def compare_at(
    batch_size: int, models: dict[str, PreTrainedModel], shapes: Shapes, arguments: argparse.Namespace
) -> Table:
    batch = make_batch(shapes, batch_size, text_tokens=32, device=arguments.device)
    del batch["labels"]
    few_words = with_fewer_image_tokens(batch, shapes.num_image_tokens, WORDS_PER_IMAGE)
    ways = {}
    for name, model in models.items():
        inputs = few_words if "words" in name else batch
        ways[name] = model, inputs, {}
    ways["LLaVA, static cache"] = models["LLaVA"], batch, {"cache_implementation": "static"}
    ways["LangBridge, static cache"] = models["LangBridge"], batch, {"cache_implementation": "static"}
    tokens = arguments.new_tokens
    first = measure({name: make_run(*way, 1) for name, way in ways.items()}, arguments.rounds, arguments.device)
    whole = measure({name: make_run(*way, tokens) for name, way in ways.items()}, arguments.rounds, arguments.device)
    text = shapes.parts()["text_config"]
    title = (
        f"batch {batch_size}: {shapes.num_image_tokens} visual tokens, {tokens} new ones; d {text.hidden_size}, "
        f"{text.num_hidden_layers} layers, H {shapes.times(shapes.projector_hidden_size):,}, "
        f"V {shapes.times(shapes.words):,}"
    )
    return table(title, first, whole, tokens, batch_size)


def table(title: str, first: dict[str, Timing], whole: dict[str, Timing], tokens: int, batch_size: int) -> Table:
    columns = [
        "",
        "first token, s",
        "against LLaVA",
        "all, s",
        "against LLaVA",
        "tokens/s after the first",
        "images/s",
    ]
    rows = []
    for name in whole:
        after = whole[name].median - first[name].median
        rows.append(
            [
                name,
                first[name].median,
                f"{first[name].ratio_to(first['LLaVA']):.3f}",
                whole[name].median,
                f"{whole[name].ratio_to(whole['LLaVA']):.3f}",
                (tokens - 1) * batch_size / after,
                batch_size / whole[name].median,
            ]
        )
    return Table(title, columns, rows)


def with_fewer_image_tokens(
    batch: dict[str, torch.Tensor], num_image_tokens: int, fewer: int
) -> dict[str, torch.Tensor]:
    """The batch for a model that gives each image this many visual tokens."""
    kept = slice(num_image_tokens - fewer, None)
    return {**batch, **{name: batch[name][:, kept] for name in ("input_ids", "attention_mask")}}


def make_run(model: PreTrainedModel, inputs: dict[str, torch.Tensor], options: dict, tokens: int) -> Callable:
    @torch.no_grad()
    def run() -> None:
        model.generate(**inputs, **options, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    return run

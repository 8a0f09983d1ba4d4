# SPDX-License-Identifier: Apache-2.0
"""Whether packing pays: the padding that it saves, and the real tokens a second of training steps.

Batches of samples in random order and by length (`group_by_length`) are compared with bins. Padding is a count, the
same on any machine. The steps are forward and backward passes of a small model with random weights, which is trained
in full but for its vocabulary, on a few batches of real photos and captions, the same ones in every kind of batches.
The kinds take turns, and medians are taken; the seconds are the process's CPU time, which other work on the machine
disturbs less.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer import load_training_data
from trainer.data.conversations import ConversationEncoder
from trainer.data.dataset_rows import as_rows
from trainer.data.packing import best_fit_decreasing
from trainer.data.packing_collator import PackingCollator
from trainer.data.sample_lengths import count_tokens

from . import measuring
from .random_parts import find_data
from .tables import Table, show


# What a file holds, and whether its questions are left out, as in pretraining.
FILES = {
    "plain captions": ("pretrain_flickr8k.json", True),
    "captions": ("pretrain_flickr8k.json", False),
    "conversations": ("instruct_mix.json", False),
}
PATCH = 4  # pixels
TIMED = 3  # batches of samples
WORDS = 8  # visual tokens that no square of patches gives: an image's strongest words
Row = dict[str, Any]


@dataclass
class Batches:
    """Batches of one kind: in each, sequences of positions of samples, which lie in a bin or are alone."""

    name: str
    batches: list[list[list[int]]]

    def padded(self, lengths: list[int]) -> float:
        """Places of the batches, for each real token."""
        longest = [max(sum(lengths[sample] for sample in one) for one in batch) for batch in self.batches]
        return sum(len(batch) * most for batch, most in zip(self.batches, longest, strict=True)) / sum(lengths)


def make_batches(lengths: list[int], batch: int, capacities: list[int], seed: int = 0) -> list[Batches]:
    """
    The same samples in batches of each kind; those of bins hold about as many tokens.

    Args:
        lengths (`list[int]`): tokens of the samples.
        batch (`int`): samples of a batch.
        capacities (`list[int]`): tokens of a bin.
        seed (`int`, *optional*, defaults to 0): of every order.
    """

    def in_batches(sequences: list[list[int]], size: int) -> list[list[list[int]]]:
        return [sequences[start : start + size] for start in range(0, len(sequences), size)]

    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    sampler = LengthGroupedSampler(batch, lengths=lengths, generator=torch.Generator().manual_seed(seed))
    kinds = [
        Batches("shuffled", in_batches([[sample] for sample in order], batch)),
        Batches("group_by_length", in_batches([[sample] for sample in sampler], batch)),
    ]
    for capacity in capacities:
        bins = best_fit_decreasing([lengths[sample] for sample in order], capacity)
        bins = [[order[place] for place in content] for content in bins]
        random.Random(seed).shuffle(bins)
        size = max(1, round(batch * statistics.mean(lengths) / capacity))
        kinds.append(Batches(f"packed, max_length {capacity}", in_batches(bins, size)))
    return kinds


def compose(tokenizer: Path, tokens: int, width: int, folder: Path) -> tuple[PreTrainedModel, Any]:
    """A small LangBridge with so many visual tokens an image, and its processor."""
    torch.manual_seed(0)
    words = {"coefficient_activation": "gated_softmax"} if tokens == WORDS else {}
    side = 7 if words else int(tokens**0.5)
    if not words and side**2 != tokens:
        raise ValueError(f"An image cannot have {tokens} visual tokens here: give {WORDS}, or a square.")
    pixels = side * PATCH
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    tower = CLIPVisionModel(CLIPVisionConfig(**shape, image_size=pixels, patch_size=PATCH))
    size = {"height": pixels, "width": pixels}
    spoken = AutoTokenizer.from_pretrained(tokenizer)
    config = Qwen2Config(
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        vocab_size=len(spoken),
        tie_word_embeddings=True,
    )
    tower.save_pretrained(folder / "tower")
    CLIPImageProcessorPil(size={"shortest_edge": pixels}, crop_size=size).save_pretrained(folder / "tower")
    Qwen2ForCausalLM(config).save_pretrained(folder / "text")
    spoken.save_pretrained(folder / "text")
    parts = str(folder / "tower"), str(folder / "text")
    processor = LangBridgeProcessor.from_vision_text_pretrained(
        *parts, **({"words_per_image": WORDS} if words else {})
    )
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        *parts, list(range(min(2000, len(spoken)))), processor, projector_hidden_size=width, **words
    )
    model.train().requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)  # whose gradient is as large as the vocabulary
    return model, processor


def step(model: PreTrainedModel, batch: dict[str, Any]) -> None:
    """Forward and backward, but for the output layer: it reads targets alone, which are the same in any batches."""
    inputs = {name: batch[name] for name in batch.keys() - {"labels", "sample_ids", "num_tokens"}}
    states = model.model(**inputs, use_cache=False).last_hidden_state  # (sequences, tokens, d)
    states[batch["labels"] != -100].square().mean().backward()
    model.zero_grad()


def time_steps(
    model: PreTrainedModel,
    encoder: ConversationEncoder,
    dataset: Dataset,
    kinds: list[Batches],
    num_tokens: int,
    rounds: int,
) -> dict[str, float]:
    """Real tokens a second of each kind of batches of the same samples, the median over rounds."""
    collator = PackingCollator(encoder)

    def collate(kind: Batches, sequences: list[list[int]]) -> dict[str, Any]:
        rows = [[dataset[sample] for sample in one] for one in sequences]
        return collator(rows if kind.name.startswith("packed") else [row for one in rows for row in one])

    def make_run(kind: Batches) -> Callable[[], None]:
        batches = [collate(kind, sequences) for sequences in kind.batches]

        def run() -> None:
            for batch in batches:
                step(model, batch)

        return run

    timings = measuring.measure({kind.name: make_run(kind) for kind in kinds}, rounds)
    return {name: num_tokens / statistics.median(timing.compared) for name, timing in timings.items()}


def measure(
    data: Path,
    tokenizer: Path,
    tokens: list[int],
    batch: int,
    capacities: list[int],
    rounds: int,
    contents: list[str] | None = None,
    width: int = 256,
) -> Iterator[Row]:
    """
    Counts padding, and times steps.

    Args:
        data (`Path`): the folder with the files of `FILES`, beside that with their photos.
        tokenizer (`Path`): a folder or Hub id.
        tokens (`list[int]`): visual tokens of an image.
        batch (`int`): samples of a batch.
        capacities (`list[int]`): tokens of a bin. Those that hold no two of the longest samples are left out.
        rounds (`int`): how often each kind is timed; 0 for the count alone.
        contents (`list[str]`, *optional*): of which of `FILES`; all when left out.
        width (`int`, *optional*, defaults to 256): the language model's, a multiple of 64.

    Yields:
        A `dict` for each of `FILES`, number of visual tokens and kind of batches: `data`, `visual tokens`, `batches`,
        `places` for each real token, `samples` a sequence, and, where steps are timed, real `tokens a second` and
        their `ratio` to those of shuffled samples.
    """
    counted: dict[str, list[tuple[int, int]]] = {}  # the tokens of each sample's text, and its images
    for number in tokens:
        with tempfile.TemporaryDirectory() as folder:
            model, processor = compose(tokenizer, number, width, Path(folder))
        for content in contents or FILES:
            file, plain = FILES[content]
            encoder = ConversationEncoder(processor, plain)
            dataset = as_rows(load_training_data(str(data / file), image_folder=str(data.parent)))
            if content not in counted:
                counted[content] = [
                    (row["num_tokens"] - row["num_image_tokens"], row["num_image_tokens"] // number)
                    for row in count_tokens(dataset, encoder)
                ]
            lengths = [text + images * number for text, images in counted[content]]
            possible = [capacity for capacity in capacities if capacity >= 2 * max(lengths)]
            rates: dict[str, float] = {}
            if rounds:
                chosen = random.Random(1).sample(range(len(dataset)), min(TIMED * batch, len(dataset)))
                timed = [lengths[sample] for sample in chosen]
                kinds = make_batches(timed, batch, possible)
                rates = time_steps(model, encoder, dataset.select(chosen), kinds, sum(timed), rounds)
            for kind in make_batches(lengths, batch, possible):
                row = {"data": content, "visual tokens": number, "batches": kind.name}
                row["places"] = kind.padded(lengths)
                row["samples"] = statistics.mean(len(one) for part in kind.batches for one in part)
                if rates:
                    row |= {"tokens a second": rates[kind.name], "ratio": rates[kind.name] / rates["shuffled"]}
                yield row


def answer(arguments: argparse.Namespace) -> list[Table]:
    data = find_data(arguments.data)
    rows = [
        [show(value) for value in row.values()]
        for row in measure(
            *(data / "llava_format", data / "tokenizers" / "qwen2", arguments.tokens, arguments.images),
            *(arguments.max_length, arguments.rounds, arguments.contents, arguments.width),
        )
    ]
    columns = ["data", "visual tokens", "batches", "places a token", "samples a sequence"]
    columns += ["tokens/s", "against shuffled"] if arguments.rounds else []
    return [Table(f"Batches of {arguments.images} samples, or of as many tokens in bins", columns, rows)]

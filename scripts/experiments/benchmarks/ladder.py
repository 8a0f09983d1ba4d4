# SPDX-License-Identifier: Apache-2.0
"""One device, from a plain Trainer to this project's recipes, one option after another.

Each rung trains samples of llava_format/instruct_mix.json for a few steps in a process of its own, the rungs in turn.
Tokens are those of the samples, padding left out. Seconds are on a CPU those that the training process computes, on
a GPU those of the clock. The share of the matrix products' multiply-adds in float32 is a count; on a GPU a profile of
the last step also says the share of their time. Of the loss it depends on the device: the products of its gradients
are in bfloat16 in TRL's kernel for GPUs, and in float32 in its stand-in for the CPU.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer import load_training_data
from trainer.data.conversations import ConversationEncoder
from trainer.data.sample_lengths import count_tokens
from trainer.data.sources import as_rows
from trainer.planning.described_model import describe_model

from .measured_run import Options, measure, parse
from .random_parts import find_data, write_parts, write_tiny_parts
from .shapes import Shapes
from .tables import Table, spread


STAGES = {
    "pretraining": {},
    "lora": {"train_language_model": "lora"},
    "full": {"train_language_model": "full"},
}
LONGEST = 1024  # tokens of a sample
COMMON = {
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1000,
    "max_length": LONGEST,
    "too_long": "drop",
}
# What each rung adds to those below it. A plain Trainer as LLaVA's scripts set it: weights in float32 (the language
# model's are here saved so), products in bfloat16, checkpointing.
RUNGS: dict[str, Options] = {
    "transformers' Trainer": {
        "dtype": "float32",
        "bf16": True,
        "activation_checkpointing": True,
        "optim": "adamw_torch",
        "train_sampling_strategy": "random",
    },
    "this trainer: logits of the answers alone, in pieces": {},
    "optim: adamw_torch_fused": {"optim": "adamw_torch_fused"},
    "dtype: bfloat16": {"dtype": "bfloat16"},
    "train_sampling_strategy: group_by_length": {"train_sampling_strategy": "group_by_length"},
    "activation_checkpointing: false": {"activation_checkpointing": False},
    "dataloader_num_workers: 2": {"dataloader_num_workers": 2},
}
SAMPLES = 1000


def climb(bin_tokens: int) -> dict[str, Options]:
    """The options of each rung, with those of the rungs below it. The last packs samples, one bin a batch."""
    packing = {
        "packing": True,
        "max_length": bin_tokens,
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "random",
    }
    options: Options = {}
    rungs = {**RUNGS, "packing: true": packing}
    return {name: (options := {**options, **added}) for name, added in rungs.items()}


def answer(arguments: argparse.Namespace) -> list[Table]:
    data, shapes = find_data(arguments.data), Shapes(pair=arguments.shape)
    samples = json.loads((data / "llava_format" / "instruct_mix.json").read_text(encoding="utf-8"))[:SAMPLES]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "samples.json")
        file.write_text(json.dumps(samples), encoding="utf-8")
        common = {
            **write_parts(shapes, data, Path(folder, "whole"), dtype="float32"),
            **COMMON,
            **STAGES[arguments.stage],
            "dataset": file,
            "image_folder": data,
            "per_device_train_batch_size": arguments.images,
            "max_steps": arguments.steps,
        }
        tiny = {**write_tiny_parts(shapes, data, Path(folder, "tiny")), "max_steps": 1}
        rungs = climb(find_bin(common, arguments.images))
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in rungs}
        for place, name in enumerate(tqdm([*rungs] * arguments.rounds, desc="rungs")):
            options = {**common, **rungs[name], "output_dir": Path(folder, str(place))}
            warm_up = {**tiny, "output_dir": Path(folder, f"{place}_tiny")}
            runs[name].append(measure(options, warm_up, arguments.device, plain=name == next(iter(rungs))))
    return [tabulate(runs, f"{arguments.stage}: {arguments.shape}, batches of {arguments.images}")]


def find_bin(options: Options, images: int) -> int:
    """The tokens of a bin that holds as many as a batch has on average, and any sample."""
    model, data, _ = parse({**options, "output_dir": "unused"})
    _, processor = describe_model(model, needs_folder=False)
    dataset = as_rows(load_training_data(data.dataset, **data.image_options()))
    lengths = count_tokens(dataset, ConversationEncoder(processor))["num_tokens"]
    return max(LONGEST, round(images * statistics.mean(length for length in lengths if length <= LONGEST)))


def tabulate(runs: dict[str, list[dict[str, Any]]], title: str) -> Table:
    """The medians of the rungs' rounds, each against the first rung's of the same round."""
    first, rows = next(iter(runs.values())), []
    for name, rounds in runs.items():
        rates = [one["tokens"] for one in rounds]
        ratios = [rate / other["tokens"] for rate, other in zip(rates, first, strict=True)]
        times = [share_of(one["product_time"], "float") for one in rounds if one["product_time"]]
        rows.append(
            [
                name,
                statistics.median(rates),
                spread(rates),
                f"{statistics.median(ratios):.2f}",
                statistics.median(one["memory"] for one in rounds) / 2**20,
                f"{share_of(rounds[0]['multiply_adds'], 'float32'):.1%}",
                f"{statistics.median(times):.1%}" if times else "not on a CPU",
            ]
        )
    columns = ["", "tokens/s", "slowest to fastest", "against the first", "peak memory, MiB"]
    columns += ["multiply-adds in float32", "products' time in float32"]
    return Table(title, columns, rows)


def share_of(amounts: dict[str, float], name: str) -> float:
    return amounts.get(name, 0) / sum(amounts.values())

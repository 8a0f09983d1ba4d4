# SPDX-License-Identifier: Apache-2.0
"""One device, from a plain Trainer to this project's recipes, one option after another.

Each rung trains samples of llava_format/instruct_mix.json for a few steps in a process of its own, the rungs in turn.
Tokens are those of the samples, padding left out. Seconds are on a CPU those that the training process computes, on
a GPU those of the clock. The share of the matrix products' multiply-adds in float32 is a count. Of the loss it depends
on the device: the products of its gradients are in bfloat16 in TRL's kernel for GPUs, and in float32 in its stand-in
for the CPU.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .measured_run import measure
from .random_parts import find_data, write_parts
from .tables import Table


STAGES = {
    "pretraining": {},
    "lora": {"train_language_model": "lora"},
    "full": {"train_language_model": "full"},
}
COMMON = {
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1000,
    "max_length": 1024,
    "too_long": "drop",
}
# What each rung adds to those below it. A plain Trainer as LLaVA's scripts set it: weights in float32 (the language
# model's are here saved so), products in bfloat16, checkpointing.
RUNGS: dict[str, dict[str, Any]] = {
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


def climb() -> dict[str, dict[str, Any]]:
    """The options of each rung, with those of the rungs below it."""
    options: dict[str, Any] = {}
    return {name: (options := {**options, **added}) for name, added in RUNGS.items()}


def answer(arguments: argparse.Namespace) -> list[Table]:
    data, rungs = find_data(arguments.data), climb()
    samples = json.loads((data / "llava_format" / "instruct_mix.json").read_text(encoding="utf-8"))[:SAMPLES]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in rungs}
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(arguments.shape, data, Path(folder), dtype="float32")
        file = Path(folder, "samples.json")
        file.write_text(json.dumps(samples), encoding="utf-8")
        for place, name in enumerate(tqdm([*rungs] * arguments.rounds, desc="rungs")):
            options = {
                **parts,
                **COMMON,
                **STAGES[arguments.stage],
                **rungs[name],
                "dataset": file,
                "image_folder": data,
                "per_device_train_batch_size": arguments.images,
                "max_steps": arguments.steps,
                "output_dir": Path(folder, str(place)),
            }
            runs[name].append(measure(options, plain=name == next(iter(rungs))))
    return [tabulate(runs, f"{arguments.stage}: {arguments.shape}, batches of {arguments.images}")]


def tabulate(runs: dict[str, list[dict[str, Any]]], title: str) -> Table:
    """The medians of the rungs' rounds, each against the first rung's of the same round."""
    first, rows = next(iter(runs.values())), []
    for name, rounds in runs.items():
        ratios = [one["tokens"] / other["tokens"] for one, other in zip(rounds, first, strict=True)]
        products = rounds[0]["multiply_adds"]
        rows.append(
            [
                name,
                statistics.median(one["tokens"] for one in rounds),
                f"{statistics.median(ratios):.2f}",
                statistics.median(one["memory"] for one in rounds) / 2**20,
                f"{products.get('float32', 0) / sum(products.values()):.1%}",
            ]
        )
    columns = ["", "tokens/s", "against the first", "peak memory, MiB", "multiply-adds in float32"]
    return Table(title, columns, rows)

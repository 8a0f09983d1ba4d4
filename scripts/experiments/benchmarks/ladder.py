# SPDX-License-Identifier: Apache-2.0
"""One GPU, or one CPU, from a plain Trainer to this project's recipes, one option after another.

Each rung trains the same samples of llava_format/instruct_mix.json for a few steps in a process of its own; rounds
alternate over the rungs, and medians are taken. Tokens are those of the samples, padding left out. The share of the
multiply-adds of matrix products in float32 does not depend on the machine, but for the loss: TRL's kernel for GPUs
takes its gradients' products in bfloat16, its stand-in for the CPU in float32.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from experiments.benchmarks.measured_run import measure
from experiments.benchmarks.training_arguments import add_training_arguments, chosen, find_data, write_json


STAGES = {
    "pretrain": {},
    "finetune": {"train_language_model": "full"},
    "lora": {"train_language_model": "lora"},
}
COMMON = {
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1000,
    "learning_rate": 1e-4,
    "max_length": 1024,
    "too_long": "drop",
}
# What each rung adds to those before it.
RUNGS: dict[str, dict[str, Any]] = {
    "transformers' Trainer, float32 weights, bf16": {
        "dtype": "float32",
        "bf16": True,
        "activation_checkpointing": True,
        "optim": "adamw_torch",
        "train_sampling_strategy": "random",
    },
    "this trainer: the loss in pieces, frozen tower without gradients": {},
    "fused AdamW (transformers' default)": {"optim": "adamw_torch_fused"},
    "weights loaded in bfloat16 (dtype)": {"dtype": "bfloat16"},
    "batches of like length (train_sampling_strategy)": {"train_sampling_strategy": "group_by_length"},
    "no checkpointing (activation_checkpointing)": {"activation_checkpointing": False},
    "workers (dataloader_num_workers)": {"dataloader_num_workers": 2},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, batch=8)
    parser.add_argument("--stage", choices=STAGES, default="finetune", help="what is trained (default: finetune)")
    parser.add_argument("--steps", type=int, default=6, help="of a rung, the first three not timed (default: 6)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds over the rungs (default: 2)")


def climb() -> dict[str, dict[str, Any]]:
    """The options of each rung, with those of the rungs before it."""
    options: dict[str, Any] = {}
    return {name: (options := {**options, **added}) for name, added in RUNGS.items()}


def answer(arguments: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from experiments.benchmarks.random_parts import write_parts

    data, rungs = find_data(arguments), chosen(climb(), arguments.only)
    plain = next(iter(RUNGS))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in rungs}
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(arguments.shape, data, Path(folder), dtype="float32")
        for place, name in enumerate(tqdm([*rungs] * arguments.rounds, desc="training")):
            options = {
                **parts,
                **COMMON,
                **STAGES[arguments.stage],
                **rungs[name],
                "dataset": str(data / "llava_format" / "instruct_mix.json"),
                "image_folder": str(data),
                "per_device_train_batch_size": arguments.batch,
                "max_steps": arguments.steps,
                "output_dir": str(Path(folder, f"run{place}")),
            }
            runs[name].append(measure(options, plain=name == plain))
    figures = {name: summarize(measured) for name, measured in runs.items()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{arguments.shape}, {arguments.stage}, batches of {arguments.batch}, {device}, torch {torch.__version__}\n")
    print("| rung | real tokens/s | against the first | peak memory, MiB | multiply-adds in float32 |")
    print("|---|---:|---:|---:|---:|")
    first = next(iter(figures.values()))["tokens_per_second"]
    for name, row in figures.items():
        rate = row["tokens_per_second"]
        print(f"| {name} | {rate:,.0f} | {rate / first:.2f} | {row['memory'] / 2**20:,.0f} | {row['float32']:.1%} |")
    write_json(figures, arguments.json)


def summarize(measured: list[dict[str, Any]]) -> dict[str, float]:
    """The medians of a rung's rounds."""
    products = measured[0]["multiply_adds"]
    return {
        "tokens_per_second": statistics.median(run["tokens"] for run in measured),
        "memory": statistics.median(run["memory"] for run in measured),
        "float32": products.get("float32", 0) / sum(products.values()),
        "multiply_adds": sum(products.values()),
    }

# SPDX-License-Identifier: Apache-2.0
"""What scripts/plan.py says of memory beside what training takes, each configuration in a process of its own.

On the CPU the measured memory is the most that the process holds, less what it holds before it makes the model; on a
GPU, the most that torch has allocated there. All samples are equally long.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from experiments.benchmarks.measured_run import measure
from experiments.benchmarks.training_arguments import add_training_arguments, chosen, find_data, write_json


ANSWER = "a dog runs on the grass " * 12
CHECKPOINTING = {"activation_checkpointing": True}
FULL, LORA = {"train_language_model": "full"}, {"train_language_model": "lora"}
LOW, FLOAT32 = {"bf16": True}, {"bf16": False, "dtype": "float32"}
ROWS = {
    "adapter, bfloat16": {**LOW},
    "adapter, bfloat16, checkpointing": {**LOW, **CHECKPOINTING},
    "adapter, float32": {**FLOAT32},
    "adapter, float32 weights, bfloat16 products": {**LOW, "dtype": "float32"},
    "LoRA, bfloat16": {**LOW, **LORA},
    "LoRA, float32, checkpointing": {**FLOAT32, **LORA, **CHECKPOINTING},
    "full, bfloat16": {**LOW, **FULL},
    "full, float32, checkpointing": {**FLOAT32, **FULL, **CHECKPOINTING},
    "full with the tower, float32": {**FLOAT32, **FULL, "train_vision_tower": "full"},
    "LoRA over 4 bits": {**LOW, **LORA, "load_in_4bit": True},
}
# For the measured run and the simulated one alike.
COMMON = {
    "activation_checkpointing": False,
    "max_steps": 4,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 100,
    "learning_rate": 1e-4,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_training_arguments(parser, batch=8)


def answer(arguments: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from experiments.benchmarks.random_parts import write_parts

    data, rows = find_data(arguments), chosen(ROWS, arguments.only)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        parts = write_parts(arguments.shape, data, folder)
        photo = next((data / "flickr8k" / "images").glob("*.jpg"))
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": ANSWER.strip()}]
        samples = [{"image": photo.name, "conversations": turns}] * arguments.batch * COMMON["max_steps"]
        (folder / "samples.json").write_text(json.dumps(samples))
        for place, (name, row) in enumerate(tqdm(rows.items(), desc="training")):
            options = {
                **parts,
                **COMMON,
                **row,
                "dataset": str(folder / "samples.json"),
                "image_folder": str(photo.parent),
                "per_device_train_batch_size": arguments.batch,
                "output_dir": str(folder / f"run{place}"),
            }
            measured = measure(options)["memory"]
            figures[name] = {"planned": plan_memory(options, samples[0]), "measured": measured}
    print(f"{arguments.shape}, batches of {arguments.batch}, {'a GPU' if torch.cuda.is_available() else 'the CPU'}\n")
    print("| | planned, MiB | measured, MiB | planned against measured |\n|---|---:|---:|---:|")
    for name, pair in figures.items():
        planned, measured = pair["planned"], pair["measured"]
        print(f"| {name} | {planned / 2**20:,.0f} | {measured / 2**20:,.0f} | {planned / measured - 1:+.1%} |")
    write_json(figures, arguments.json)


def plan_memory(options: dict[str, Any], sample: dict[str, Any]) -> int:
    """The bytes that scripts/plan.py finds, without what it assumes for CUDA, which torch does not allocate."""
    import torch

    from trainer import LangBridgeSFTConfig
    from trainer.data.conversations import ConversationEncoder
    from trainer.model_loading import ModelArguments
    from trainer.planning.described_run import DescribedRun, describe_model
    from trainer.recipes import RecipeParser
    from train import DataArguments

    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    model, _, config, _ = RecipeParser((ModelArguments, DataArguments, LangBridgeSFTConfig)).parse(words)
    _, processor = describe_model(model, "lora" in config.modes().values())
    encoder = ConversationEncoder(processor)
    text_tokens = encoder.length(sample) - processor.num_image_tokens
    run = DescribedRun(model, config, text_tokens, on_gpu=torch.cuda.is_available())
    return run.cost(config.per_device_train_batch_size).memory.total()

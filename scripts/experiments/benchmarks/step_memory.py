# SPDX-License-Identifier: Apache-2.0
"""What scripts/plan.py says of memory beside what training takes, each way of training in a process of its own.

On the CPU the measured memory is the most that the process holds, less what it holds before it makes the model, when
it has trained a tiny one; on a GPU, the most that torch has allocated there. All samples are equally long, each with a
photo.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.data.conversations import ConversationEncoder
from trainer.planning.described_model import describe_model
from trainer.planning.described_run import DescribedRun

from .measured_run import Options, measure, parse
from .random_parts import find_data, write_parts, write_tiny_parts
from .shapes import Shapes
from .tables import Table


ANSWER = " ".join(["a dog runs on the grass"] * 12)
CHECKPOINTING = {"activation_checkpointing": True}
FULL, LORA = {"train_language_model": "full"}, {"train_language_model": "lora"}
LOW, FLOAT32 = {"bf16": True}, {"bf16": False, "dtype": "float32"}
WAYS: dict[str, Options] = {
    "adapter, bfloat16": LOW,
    "adapter, bfloat16, checkpointing": {**LOW, **CHECKPOINTING},
    "adapter, float32": FLOAT32,
    "adapter, float32 weights multiplied in bfloat16": {**LOW, "dtype": "float32"},
    "LoRA, bfloat16": {**LOW, **LORA},
    "LoRA, float32, checkpointing": {**FLOAT32, **LORA, **CHECKPOINTING},
    "full, bfloat16": {**LOW, **FULL},
    "full, float32, checkpointing": {**FLOAT32, **FULL, **CHECKPOINTING},
    "full with the tower, float32": {**FLOAT32, **FULL, "train_vision_tower": "full"},
    "LoRA over 4 bits": {**LOW, **LORA, "load_in_4bit": True},
}
STEPS = 4
COMMON = {
    "activation_checkpointing": False,
    "max_steps": STEPS,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 100,
}


def answer(arguments: argparse.Namespace) -> list[Table]:
    data, rows = find_data(arguments.data), []
    with tempfile.TemporaryDirectory() as folder:
        shapes = Shapes(pair=arguments.shape)
        parts = write_parts(shapes, data, Path(folder, "whole"))
        tiny = write_tiny_parts(shapes, data, Path(folder, "tiny"))
        photo = next((data / "flickr8k" / "images").glob("*.jpg"))
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": ANSWER}]
        sample = {"image": photo.name, "conversations": turns}
        file = Path(folder, "samples.json")
        file.write_text(json.dumps([sample] * arguments.images * STEPS), encoding="utf-8")
        for place, (name, way) in enumerate(tqdm(WAYS.items(), desc="ways of training")):
            options = {
                **parts,
                **COMMON,
                **way,
                "dataset": file,
                "image_folder": photo.parent,
                "per_device_train_batch_size": arguments.images,
                "output_dir": Path(folder, str(place)),
            }
            warm_up = {**tiny, "max_steps": 1, "output_dir": Path(folder, f"{place}_tiny")}
            planned = plan(options, sample, on_gpu=arguments.device == "cuda")
            measured = measure(options, warm_up, arguments.device)["memory"]
            rows.append([name, planned / 2**20, measured / 2**20, f"{planned / measured - 1:+.1%}"])
    title = f"Peak memory of a step: {arguments.shape}, batches of {arguments.images}"
    return [Table(title, ["", "planned, MiB", "measured, MiB", "planned against measured"], rows)]


def plan(options: Options, sample: dict[str, Any], on_gpu: bool) -> int:
    """The bytes that scripts/plan.py finds, without what it assumes for CUDA, which torch does not allocate."""
    model, _, config = parse(options)
    _, processor = describe_model(model, needs_folder=False)
    encoder = ConversationEncoder(processor)
    answers = sum(label != -100 for label in encoder.encode(sample)["labels"])
    text_tokens = encoder.length(sample) - processor.num_image_tokens
    run = DescribedRun(model, config, text_tokens, answers, on_gpu=on_gpu)
    return run.cost(config.per_device_train_batch_size).memory.total()

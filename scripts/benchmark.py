# SPDX-License-Identifier: Apache-2.0
"""Answers questions about speed and memory, each as tables of ways of doing the same thing.

The models have random weights and the paper's shapes, or smaller ones in proportion (--scale). Ways are timed in turn,
each once in a round; medians, their spread, and ratios that are medians over the rounds:

    python scripts/benchmark.py adapter
    python scripts/benchmark.py training_step --scale 0.25 --json step.json

docs/benchmarks.md has the answers of one machine.
"""

import argparse
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from trainer.command_line import check_new_file, run_script
from trainer.number_arguments import at_least


Option = dict[str, Any]


def number(default: int, of_what: str, least: int = 1) -> Option:
    return {"type": at_least(least), "default": default, "help": f"{of_what} (default: {default})"}


def numbers(default: list[int], of_what: str, least: int = 1) -> Option:
    return {**number(0, of_what, least), "nargs": "+", "default": default, "help": f"{of_what} (default: {default})"}


def some_of(choices: list[str], of_what: str) -> Option:
    return {"nargs": "+", "choices": choices, "default": choices, "help": f"{of_what} (default: all)"}


def one_of(choices: list[str], of_what: str) -> Option:
    return {"choices": choices, "default": choices[0], "help": f"{of_what} (default: {choices[0]})"}


SCALES = [0.125, 0.25, 0.5, 1.0]  # which the heads of attention divide
SCALE = {
    "type": float,
    "choices": SCALES,
    "default": 0.25,
    "help": "all widths, times those of CLIP-L/336, the language model and the paper's adapter (default: 0.25)",
}
LAYERS = "of tower and language model"
SHAPES = {
    "shape": one_of(["qwen2_0.5b", "qwen2_7b"], "CLIP-L/336 and this language model"),
    "scale": SCALE,
    "layers": {"type": at_least(1), "help": f"{LAYERS} each (default: their own)"},
    "projector_hidden_size": number(5120, "the projector's width H, before --scale"),
}
STEP = number(4, "images of a training step")
WORDS = number(19200, "shared words V")
STAGES = ["pretraining", "lora", "full"]
DEVICE = one_of(["cpu", "cuda"], "what computes")
OF_ROUNDS = "rounds that the medians are taken over"
ROUNDS = number(5, OF_ROUNDS)
REAL_DATA = {
    "type": Path,
    "default": os.environ.get("LANGBRIDGE_DATA"),
    "help": "folder with flickr8k, llava_format and tokenizers (default: $LANGBRIDGE_DATA)",
}
TRAINED = {
    "shape": one_of(["small", "qwen2_0.5b", "qwen2_7b"], "small, for a CPU, or CLIP-L/336 and that language model"),
    "data": REAL_DATA,
    "images": number(8, "samples of a batch"),
    "device": DEVICE,
}

# What each asks, and its options beside --json.
QUESTIONS: dict[str, tuple[str, dict[str, Option]]] = {
    "adapter": (
        "the adapter's order of products, beside LLaVA's MLP and the published code",
        {
            "tokens": number(576, "visual tokens of an image"),
            "words": WORDS,
            "images": STEP,
            "projector_hidden_size": number(640, "the projector's width H; the paper's is 5120"),
            "width": number(896, "the language model's width d; 896 is Qwen2 0.5B's"),
            "device": DEVICE,
            "rounds": ROUNDS,
        },
    ),
    "training_step": (
        "a whole training step, beside transformers' LLaVA of the same parts",
        {
            **SHAPES,
            "images": STEP,
            "stages": some_of(STAGES, "what is trained"),
            "bf16": {"action": "store_true", "help": "multiply in bfloat16 (autocast)"},
            "device": DEVICE,
            "rounds": ROUNDS,
        },
    ),
    "generation": (
        "time to first token and tokens a second, beside LLaVA",
        {
            **SHAPES,
            "ways": some_of(["langbridge", "words", "static_cache"], "what stands beside LLaVA"),
            "new_tokens": number(16, "tokens of an answer", least=2),
            "batch_sizes": numbers([1, 16], "images at a time"),
            "device": DEVICE,
            "rounds": ROUNDS,
        },
    ),
    "data": (
        "opening images, preparing them, and how long a step waits for them",
        {
            "scale": SCALE,
            "layers": number(4, LAYERS),
            "image_size": number(336, "pixels of an image's side, as the tower reads it", least=14),
            "images": STEP,
            "workers": numbers([0, 1, 2], "processes that prepare samples", least=0),
            "steps": number(10, "steps of the run whose waiting is measured"),
            "rounds": ROUNDS,
        },
    ),
    "feature_cache": (
        "passes over photos from the cache, beside opening them and running the tower",
        {
            "scale": SCALE,
            "layers": number(4, LAYERS),
            "vision_tower": {"help": "a pretrained tower, a folder or Hub id, instead of a random one"},
            "dataset": {"help": "photos, in any form that train.py takes, instead of made ones"},
            "image_folder": {"help": "what its relative image paths are relative to"},
            "images": number(16, "photos at a time"),
            "workers": number(0, "processes that open photos", least=0),
            "rounds": ROUNDS,
        },
    ),
    "packing": (
        "the padding that packing saves, and the tokens a second of steps",
        {
            "data": REAL_DATA,
            "contents": some_of(["plain captions", "captions", "conversations"], "samples"),
            "tokens": numbers([8, 49, 81, 576], "visual tokens of an image"),
            "images": number(32, "samples of a batch"),
            "max_length": numbers([512, 2048], "tokens of a bin"),
            "width": number(256, "the language model's width d, a multiple of 64", least=64),
            "rounds": number(5, f"{OF_ROUNDS}; 0 counts padding alone", least=0),
        },
    ),
    "answered_positions": (
        "a step on a CPU whose loss sees answered positions alone, beside one that sees all",
        {
            "scale": SCALE,
            "layers": number(12, LAYERS),
            "images": number(8, "captions of a training step"),
            "rounds": ROUNDS,
        },
    ),
    "ladder": (
        "training from a plain Trainer to the recipes, one option after another",
        {
            **TRAINED,
            "stage": one_of(["full", "pretraining", "lora"], "what is trained"),
            "steps": number(8, "steps of a rung, of which the first two and the last are not timed", least=4),
            "rounds": ROUNDS,
        },
    ),
    "step_memory": ("what plan.py says of a training step's memory, and what it takes", TRAINED),
    "start_up": (
        "imports, --help, opening a checkpoint, finding words in a tokenizer",
        {
            "scale": SCALE,
            "tokenizer": {"help": "also find words in this one, a folder or Hub id"},
            "rounds": number(2, OF_ROUNDS),
        },
    ),
    "growth": (
        "how each thing's time grows with images, resolution, words and rows",
        {
            "plot": {"type": Path, "metavar": "FILE", "help": "also draw the curves to this png"},
            "rounds": ROUNDS,
        },
    ),
    "assignment_prediction": (
        "what assignment prediction adds to a training step",
        {
            "tokens": number(576, "visual tokens of an image"),
            "words": WORDS,
            "images": number(256, "photos of a training step"),
            "caption": number(16, "tokens of a caption"),
            "measured_photos": number(2, "photos that the decoder's passes are measured on"),
            "measured_captions": number(16, "captions that their states are measured on"),
            "rounds": ROUNDS,
        },
    ),
    "high_resolution": (
        "a LangBridge-NeXT beside transformers' LLaVA-NeXT",
        {"layers": number(24, "of the language model"), "words": WORDS, "rounds": ROUNDS},
    ),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    questions = parser.add_subparsers(dest="question", metavar="QUESTION", required=True)
    for question, (meaning, options) in QUESTIONS.items():
        asked = questions.add_parser(question, help=meaning, description=f"Measures {meaning}.")
        for name, option in options.items():
            asked.add_argument(f"--{name}", **option)
        asked.add_argument("--json", type=Path, metavar="FILE", help="also write the tables to this file")
    arguments = parser.parse_args()
    if arguments.json is not None:
        check_new_file(arguments.json, "--json")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    import torch

    from experiments.benchmarks.tables import describe_machine
    from modeling_langbridge.utils.files import atomic_file

    device = vars(arguments).get("device", "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here. Leave it out to measure on the CPU.")
    torch.manual_seed(0)
    machine = describe_machine(device)
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    tables = import_module(f"experiments.benchmarks.{arguments.question}").answer(arguments)
    for table in tables:
        print(f"\n{table}")
    if arguments.json is not None:
        found = {"machine": machine, "tables": [table.as_json() for table in tables]}
        with atomic_file(arguments.json) as unfinished:
            unfinished.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)

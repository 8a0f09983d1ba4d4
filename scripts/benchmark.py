# SPDX-License-Identifier: Apache-2.0
"""Answers questions about speed and memory, each as tables of ways of doing the same thing.

The models have random weights and the paper's shapes, or smaller ones in proportion (--scale). Ways are timed in turn,
in one process, each once in a round; medians, their spread, and ratios that are medians over the rounds:

    python scripts/benchmark.py adapter
    python scripts/benchmark.py training_step --scale 0.25 --json step.json

docs/benchmarks.md has the answers of one machine.
"""

import argparse
import json
import os
from importlib import import_module
from pathlib import Path

from trainer.command_line import check_new_file, run_script
from trainer.number_arguments import at_least


QUESTIONS = {
    "adapter": "the adapter's order of products, beside LLaVA's MLP and the published code",
    "training_step": "a whole training step, beside transformers' LLaVA of the same parts",
    "generation": "time to first token and tokens a second, beside LLaVA",
    "data": "opening images, preparing them, and how long a step waits for them",
    "start_up": "imports, --help, opening a checkpoint, finding words in a tokenizer",
    "feature_cache": "passes over photos from the cache, beside opening them and running the tower",
    "packing": "the padding that packing saves, and the tokens a second of steps",
    "ladder": "training from a plain Trainer to the recipes, one option after another",
    "step_memory": "what plan.py says of a training step's memory, and what it takes",
    "growth": "how each thing's time grows with images, resolution, words and rows",
    "assignment_prediction": "what assignment prediction adds to a training step",
    "high_resolution": "a LangBridge-NeXT beside transformers' LLaVA-NeXT",
}
SHAPES = {
    "scale": (float, 0.25, "all widths, times those of CLIP-L/336 and Qwen2 0.5B under the paper's adapter: 1, 0.5 …"),
    "layers": (at_least(1), 24, "of tower and language model"),
    "projector_hidden_size": (at_least(1), 5120, "the projector's width H, before --scale"),
    "images": (at_least(1), 4, "images of a training step"),
}
ADAPTER = {
    "tokens": (at_least(1), 576, "visual tokens of an image"),
    "words": (at_least(1), 19200, "shared words V"),
}
OPTIONS = {
    "adapter": {
        **ADAPTER,
        "images": SHAPES["images"],
        "projector_hidden_size": (at_least(1), 640, "the projector's width H; the paper's is 5120"),
        "width": (at_least(1), 896, "the language model's width d; 896 is Qwen2 0.5B's"),
    },
    "training_step": SHAPES,
    "generation": {
        **{name: SHAPES[name] for name in ("scale", "layers", "projector_hidden_size")},
        "new_tokens": (at_least(2), 16, "tokens of an answer"),
    },
    "data": {
        **{name: SHAPES[name] for name in ("scale", "images")},
        "layers": (at_least(1), 4, SHAPES["layers"][2]),
        "image_size": (at_least(14), 336, "pixels of an image's side, as the tower reads it"),
        "steps": (at_least(1), 10, "steps of the run whose waiting is measured"),
    },
    "start_up": {"scale": SHAPES["scale"]},
    "feature_cache": {
        "scale": SHAPES["scale"],
        "layers": (at_least(1), 4, SHAPES["layers"][2]),
        "images": (at_least(1), 16, "photos at a time"),
        "workers": (at_least(0), 0, "processes that open photos"),
    },
    "packing": {"images": (at_least(1), 32, "samples of a batch")},
    "ladder": {
        "images": (at_least(1), 8, "samples of a batch"),
        "steps": (at_least(4), 8, "steps of a rung, of which the first two and the last are not timed"),
    },
    "step_memory": {"images": (at_least(1), 8, "samples of a batch")},
    "growth": {},
    "assignment_prediction": {
        **ADAPTER,
        "images": (at_least(1), 256, "photos of a training step"),
        "caption": (at_least(1), 16, "tokens of a caption"),
        "measured_photos": (at_least(1), 2, "photos that the decoder's passes are measured on"),
        "measured_captions": (at_least(1), 16, "captions that their states are measured on"),
    },
    "high_resolution": {"layers": SHAPES["layers"], "words": ADAPTER["words"]},
}
TRAINED = ("ladder", "step_memory")
ON_A_GPU = ("adapter", "training_step", "generation")


def parse_arguments() -> argparse.Namespace:
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(description=__doc__, **raw)
    questions = parser.add_subparsers(dest="question", metavar="QUESTION", required=True)
    for question, meaning in QUESTIONS.items():
        options = questions.add_parser(question, help=meaning, description=f"Measures {meaning}.")
        for name, (kind, default, of_what) in OPTIONS[question].items():
            options.add_argument(f"--{name}", type=kind, default=default, help=f"{of_what} (default: {default})")
        if question == "training_step":
            stages = ("pretraining", "lora", "full")
            options.add_argument("--stages", nargs="+", choices=stages, default=stages, help="default: all three")
            options.add_argument("--bf16", action="store_true", help="multiply in bfloat16 (autocast)")
        if question == "generation":
            options.add_argument("--batch_sizes", type=at_least(1), nargs="+", default=[1, 16], help="default: 1 16")
        if question == "data":
            options.add_argument("--workers", type=at_least(0), nargs="+", default=[0, 1, 2], help="default: 0 1 2")
        if question == "start_up":
            options.add_argument("--tokenizer", help="also find words in this one, a folder or Hub id")
        if question == "growth":
            options.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves to this png")
        if question in TRAINED:
            shapes = ("small", "qwen2_0.5b", "qwen2_7b")
            help_shape = "small, for a CPU, or CLIP-L/336 and that language model (default: small)"
            options.add_argument("--shape", choices=shapes, default="small", help=help_shape)
            help_data = "folder with flickr8k, llava_format and tokenizers (default: $LANGBRIDGE_DATA)"
            options.add_argument("--data", type=Path, default=os.environ.get("LANGBRIDGE_DATA"), help=help_data)
        if question == "ladder":
            stages = ("pretraining", "lora", "full")
            options.add_argument("--stage", choices=stages, default="full", help="what is trained (default: full)")
        if question in ON_A_GPU:
            options.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
        options.add_argument("--rounds", type=at_least(1), default=5, help="of which the median is taken (default: 5)")
        options.add_argument("--json", type=Path, metavar="FILE", help="also write the tables to this file")
    arguments = parser.parse_args()
    if vars(arguments).get("scale", 1) not in (1, 0.5, 0.25, 0.125):
        raise ValueError(
            f"--scale is {arguments.scale}: give 1, 0.5, 0.25 or 0.125, which the heads of attention divide."
        )
    if arguments.json is not None:
        check_new_file(arguments.json, "--json")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    import torch

    from experiments.benchmarks.tables import describe_machine
    from modeling_langbridge.utils.files import atomic_file

    torch.manual_seed(0)
    machine = describe_machine(vars(arguments).get("device", "cpu"))
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

# SPDX-License-Identifier: Apache-2.0
"""The options of the questions that train a model of random weights."""

import argparse
import json
import os
from pathlib import Path
from typing import Any


SHAPES = ("small", "qwen2_0.5b", "qwen2_7b")


def add_training_arguments(parser: argparse.ArgumentParser, batch: int) -> None:
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="small",
        help="small: for a CPU; the others: CLIP-L/336 and that language model, for a GPU (default: small)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("LANGBRIDGE_DATA"),
        help="folder with flickr8k, llava_format and tokenizers (default: $LANGBRIDGE_DATA)",
    )
    parser.add_argument("--batch", type=int, default=batch, help=f"samples of a batch (default: {batch})")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the rows, by a part of their names")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")


def find_data(arguments: argparse.Namespace) -> Path:
    """The folder with the data; raises `ValueError` where none is named or it lacks what is needed."""
    if arguments.data is None:
        raise ValueError("give --data, the folder with the photos and tokenizers, or set LANGBRIDGE_DATA to it.")
    for name in ("tokenizers", "llava_format", "flickr8k"):
        if not (arguments.data / name).is_dir():
            raise ValueError(f"--data {arguments.data} holds no folder {name}: name the folder that has it.")
    return arguments.data


def chosen(rows: dict[str, Any], only: list[str] | None) -> dict[str, Any]:
    """The rows that `--only` names; raises `ValueError` for a name that no row has."""
    for part in only or []:
        if not any(part in name for name in rows):
            raise ValueError(f"--only {part}: no row has this in its name; there are {', '.join(rows)}.")
    return {name: row for name, row in rows.items() if only is None or any(part in name for part in only)}


def write_json(figures: Any, file: Path | None) -> None:
    from modeling_langbridge.utils.files import atomic_file

    if file is not None:
        with atomic_file(file) as unfinished:
            unfinished.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

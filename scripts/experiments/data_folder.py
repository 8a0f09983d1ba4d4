# SPDX-License-Identifier: Apache-2.0
"""The folder of real data that experiments read: an option of the command line, and what must be in it."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def add_data_argument(parser: argparse.ArgumentParser, folders: Sequence[str]) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("LANGBRIDGE_DATA"),
        help=f"folder with {join(folders)} (default: $LANGBRIDGE_DATA)",
    )


def check_data(parser: argparse.ArgumentParser, data: Path | None, folders: Sequence[str]) -> None:
    """Ends the command where no folder is given, or it lacks one of those that are needed."""
    if data is None:
        parser.error(f"give --data, the folder with {join(folders)}, or set LANGBRIDGE_DATA to it")
    for name in folders:
        if not (data / name).is_dir():
            parser.error(f"there is no folder {data / name}: check --data")


def join(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"

# SPDX-License-Identifier: Apache-2.0
"""The folder of real photos, captions and tokenizers, as experiments ask for it on their command lines."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def add_data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("LANGBRIDGE_DATA"),
        help="folder with caption_text, flickr8k and mobilenetv2_imagenet (default: $LANGBRIDGE_DATA)",
    )


def check_data_option(parser: argparse.ArgumentParser, data: Path | None, needed: Sequence[str], flags: str) -> None:
    """
    Ends with the parser's error where no folder is named, or what is needed of it is missing.

    Args:
        data (`Path`, *optional*): What `--data` says.
        needed (`Sequence[str]`): Folders in it.
        flags (`str`): What to check where one is missing.
    """
    if data is None:
        parser.error("give --data, the folder with the photos and captions, or set LANGBRIDGE_DATA to it")
    for name in needed:
        if not (data / name).is_dir():
            parser.error(f"there is no folder {data / name}: check {flags}")

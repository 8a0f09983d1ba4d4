# SPDX-License-Identifier: Apache-2.0
"""The rows of a `.json` list or a `.jsonl` file, each with the line it begins on."""

import json
from collections.abc import Iterator
from pathlib import Path

from .faults import SampleError


def read_json_rows(path: Path) -> Iterator[tuple[int, dict | SampleError]]:
    """
    Reads the rows of a `.json` list or a `.jsonl` file, each with the number of the line it begins on.

    Yields:
        Line number, counted from 1, and the row, or a [`SampleError`] in the place of a row that is no json object.

    Raises:
        `ValueError`: a file that cannot be read, or a `.json` that is no list of objects.
    """
    try:
        if path.suffix.lower() == ".jsonl":
            with path.open(encoding="utf-8-sig") as file:
                for line, text in enumerate(file, 1):
                    if text.strip():
                        yield line, parse_line(text)
            return
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    yield from read_json_list(path, text)


def parse_line(text: str) -> dict | SampleError:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return SampleError("not json", f"not json: {error}")
    return row if isinstance(row, dict) else SampleError("not json", f"a {type(row).__name__}, not a json object")


def read_json_list(path: Path, text: str) -> Iterator[tuple[int, dict | SampleError]]:
    decoder, position, line = json.JSONDecoder(), 0, 1

    def skip() -> None:
        nonlocal position, line
        while position < len(text) and text[position] in " \t\r\n":
            line += text[position] == "\n"
            position += 1

    def expect(character: str, complaint: str) -> None:
        nonlocal position
        if text[position : position + 1] != character:
            raise ValueError(f"{path} is no json list of samples: {complaint}, line {line}.")
        position += 1
        skip()

    skip()
    expect("[", "it must begin with `[`")
    more = text[position : position + 1] != "]"
    while more:
        try:
            row, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read as json: {error}.") from error
        yield line, row if isinstance(row, dict) else SampleError("not json", f"{row!r:.60} is no json object")
        line += text.count("\n", position, end)
        position = end
        skip()
        more = text[position : position + 1] != "]"
        if more:
            expect(",", "a `,` or the final `]` is missing")
    position += 1
    skip()
    if position < len(text):
        raise ValueError(f"{path} is no json list of samples: more follows behind its final `]`, line {line}.")

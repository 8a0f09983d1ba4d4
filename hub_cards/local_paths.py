# SPDX-License-Identifier: Apache-2.0
"""What must not leave this machine: its paths and tokens, found in what is about to be published."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from modeling_langbridge.utils.files import read_json


# Lists of words, among which "/usr" is one. What a path could hide in are settings.
WORDS = ("tokenizer.json", "vocab.json", "vocabulary.json")

BETWEEN_WORDS = re.compile(r"[\s\"'`=,;()<>\[\]{}|]+|:(?=/[^/])")
OF_A_HOME = re.compile(r"~\w*/|\$\{?HOME\b|file:/|\.\./")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")  # https://huggingface.co/docs/hub/security-tokens


def require_nothing_local(folder: Path, files: list[str]) -> None:
    """
    Refuses settings that tell about this machine.

    Args:
        folder (`Path`):
            The folder that is about to be published.
        files (`list[str]`):
            Which of its files, by their paths inside it. JSON files, but for lists of words, and templates are read.

    Raises:
        `ValueError`: a path or a token stands in one of them; the sentence names the file and the field.
    """
    for name in files:
        if name.endswith(".jinja") and (local := find_local((folder / name).read_text(encoding="utf-8"))):
            raise ValueError(f"{folder / name} holds {local!r}, which belongs to this machine: take it out.")
        if not name.endswith(".json") or name in WORDS:
            continue
        for field, text in strings_of(read_json(folder / name)):
            if field.endswith("name_or_path") and is_here(text):
                local = text
            else:
                local = find_local(text)
            if local is not None:
                raise ValueError(
                    f"`{field}` in {folder / name} holds {local!r}, which belongs to this machine: put what it is on "
                    "the Hub there, such as user/name, or take it out."
                )


def find_local(text: str) -> str | None:
    """The first word of a text that is a token (all but its beginning hidden) or an absolute path, if there is one."""
    if token := TOKEN.search(text):
        return f"{token.group()[:6]}..."
    return next((word for word in BETWEEN_WORDS.split(text) if is_absolute(word)), None)


def is_absolute(word: str) -> bool:
    # One level alone may be a word: "/think" switches a model's thinking on.
    deep = len(PurePosixPath(word).parts) > 2 and word.startswith("/")
    return bool(deep or OF_A_HOME.match(word) or PureWindowsPath(word).is_absolute())


def is_here(name: str) -> bool:
    """Whether a model's name is a folder, which may look like a Hub id: `runs/stage1`."""
    return name.startswith(("/", ".")) or (name != "" and Path(name).exists())


def strings_of(value, field: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a JSON value, with the name of its field, such as `text_config._name_or_path`."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from strings_of(child, f"{field}.{key}" if field else key)
    elif isinstance(value, list):
        for place, child in enumerate(value):
            yield from strings_of(child, f"{field}[{place}]")

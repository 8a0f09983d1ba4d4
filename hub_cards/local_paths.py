# SPDX-License-Identifier: Apache-2.0
"""Finds local paths and tokens in files that are about to be published."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from modeling_langbridge.utils.files import read_json


# Word lists, which may hold "/usr" as a word. Only settings are searched for paths.
WORDS = ("tokenizer.json", "vocab.json", "vocabulary.json")

BETWEEN_WORDS = re.compile(r"[\s\"'`=,;()<>\[\]{}|]+|:(?=/[^/])")
OF_A_HOME = re.compile(r"~\w*/|\$\{?HOME\b|file:/|\.\./")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")  # https://huggingface.co/docs/hub/security-tokens


def require_nothing_local(folder: Path, files: list[str]) -> None:
    """
    Refuses files whose settings hold local paths or tokens.

    Args:
        folder (`Path`):
            The folder that is about to be published.
        files (`list[str]`):
            The files to publish, by their paths inside it. Templates and JSON files are searched, except word lists.

    Raises:
        `ValueError`: one of them holds a path or a token; the message names the file and the field.
    """
    for name in files:
        if name.endswith(".jinja") and (local := find_local((folder / name).read_text(encoding="utf-8"))):
            raise ValueError(f"{folder / name} holds {local!r}, which is local to this machine: remove it.")
        if not name.endswith(".json") or name in WORDS:
            continue
        for field, text in strings_of(read_json(folder / name)):
            if field.endswith("name_or_path") and is_local_model(text):
                local = text
            else:
                local = find_local(text)
            if local is not None:
                raise ValueError(
                    f"`{field}` in {folder / name} holds {local!r}, which is local to this machine: replace it by "
                    "its Hub id, such as user/name, or remove it."
                )


def find_local(text: str) -> str | None:
    """The first token (masked) or absolute path in a text; `None` where there is none."""
    if token := TOKEN.search(text):
        return f"{token.group()[:6]}..."
    return next((word for word in BETWEEN_WORDS.split(text) if is_absolute(word)), None)


def is_absolute(word: str) -> bool:
    # A single level may be a word: "/think" switches a model's thinking on.
    deep = len(PurePosixPath(word).parts) > 2 and word.startswith("/")
    return bool(deep or OF_A_HOME.match(word) or PureWindowsPath(word).is_absolute())


def is_local_model(name: str) -> bool:
    """Whether a model's name is a local folder, which may look like a Hub id: `runs/stage1`."""
    return name.startswith(("/", ".")) or (name != "" and Path(name).exists())


def strings_of(value, field: str = "") -> Iterator[tuple[str, str]]:
    """Yields every string in a JSON value with the name of its field, such as `text_config._name_or_path`."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from strings_of(child, f"{field}.{key}" if field else key)
    elif isinstance(value, list):
        for place, child in enumerate(value):
            yield from strings_of(child, f"{field}[{place}]")

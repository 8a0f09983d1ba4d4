# SPDX-License-Identifier: Apache-2.0
"""The answers of a task in a folder: written as they come, found again after an interruption, of one model only."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hub_cards.repository import LLAVA
from modeling_langbridge.adapter.loading import require_weights
from modeling_langbridge.utils.files import atomic_file, read_json

from .questions import Question


SETTINGS, SCORED = "settings.json", "scored.jsonl"
FIELDS = ("shown", "key", "picture", "prompt", "answer", "references")
# What may differ between two runs that go on with each other's answers, or are compared.
NAMES = ("model", "data")


class AnswerFiles:
    """
    The answers of one task. Each process appends to a file of its own and reads all.

    Args:
        folder (`Path`): `settings.json` in it says what was asked of which model.
        process (`int`, *optional*, defaults to 0): which of several processes this is.

    Raises:
        `ValueError`: a file of answers is damaged.
    """

    def __init__(self, folder: Path, process: int = 0):
        self.folder, self.process = folder, process
        self.own = folder / f"answers-{process}.jsonl"
        rows = (row for path in sorted(self.folder.glob("answers-*.jsonl")) for row in read_answers(path))
        self.answered: dict[tuple[str, int], dict[str, Any]] = {(row["shown"], row["key"]): row for row in rows}

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends rows to this process's file."""
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        with self.own.open("a", encoding="utf-8") as file:
            file.write(lines)

    def write_scored(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes all rows, with their scores, to one file."""
        with atomic_file(self.folder / SCORED) as unfinished:
            lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
            unfinished.write_text(lines, encoding="utf-8")


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that an interruption has cut is not one."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            rows.append({field: row[field] for field in FIELDS})
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{path}, line {number} is no answer of this script: take the line out, or name another --output_dir."
            ) from None
    return rows


def require_own(folder: Path, settings: dict[str, Any]) -> None:
    """
    Sees that a folder holds answers of a model to the same questions, or nothing yet.

    Args:
        folder (`Path`): where the answers lie, or will.
        settings (`dict[str, Any]`): the model's name and the digest of its files, and what it is asked.

    Raises:
        `ValueError`: the folder holds something else, or answers of another model or to other questions.
    """
    if not (folder / SETTINGS).is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} exists and holds no answers of this script: name another --output_dir.")
        return
    before = read_settings(folder)
    if before.get("checkpoint") != settings["checkpoint"]:
        raise ValueError(f"{folder} holds answers of another model, {before.get('model')}: name another --output_dir.")
    if different := different_settings(before, settings):
        raise ValueError(
            f"{folder} holds answers of a run whose `{different[0]}` is {before.get(different[0])!r:.80}, not "
            f"{settings.get(different[0])!r:.80}: name another --output_dir."
        )


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Writes the settings into a folder, and takes out last lines that an interruption has cut."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / SETTINGS) as unfinished:
        unfinished.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in folder.glob("answers-*.jsonl"):
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            path.write_bytes(content[: content.rfind(b"\n") + 1])


def read_settings(folder: Path) -> dict[str, Any]:
    settings = read_json(folder / SETTINGS)
    if not isinstance(settings, dict):
        raise ValueError(f"{folder / SETTINGS} is not of this script: name another folder.")
    return settings


def different_settings(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The settings in which two runs differ, their names for the model and the data aside."""
    return [name for name in {**one, **other} if name not in NAMES and one.get(name) != other.get(name)]


def digest_checkpoint(name: str) -> str:
    """The SHA-256 of what makes a model, by folder or Hub id: its weights, configurations and processor."""
    weights = require_weights(name)
    files = {path for pattern in LLAVA for path in weights[0].parent.glob(pattern)} | set(weights)
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def digest_questions(questions: Sequence[Question]) -> str:
    """The SHA-256 of all that is asked, and of the right answers; the images by their names."""
    asked = [(question.prompt, Path(question.picture).name, question.references) for question in questions]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

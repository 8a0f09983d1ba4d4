# SPDX-License-Identifier: Apache-2.0
"""Writes what models see in a photo as files."""

import json
from pathlib import Path

from .explaining import Explanation
from .page import render_page
from .picture import draw_explanation


def save_explanations(folder: Path, image: Path, explanations: dict[str, Explanation]) -> None:
    """
    Writes a photo's page and, for each model, its picture and its numbers. No file is overwritten.

    Args:
        folder (`Path`): Where to.
        image (`Path`): The photo, whose name the files have.
        explanations (`dict[str, Explanation]`): What each model, by its name, sees in it: one, or two to be compared.
    """
    stem = image.stem
    while (folder / f"{stem}.html").exists():  # of the same name, from another folder or with another suffix
        stem += "_"
    title = image.name.encode(errors="replace").decode()  # a file's name need not be text
    (folder / f"{stem}.html").write_text(render_page(title, explanations), encoding="utf-8")
    for number, (name, explanation) in enumerate(explanations.items()):
        path = folder / (f"{stem}.json" if number == 0 else f"{stem}.compared.json")
        content = {"image": title, "model": name, **explanation.to_dict()}
        path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        draw_explanation(explanation).save(path.with_suffix(".png"))

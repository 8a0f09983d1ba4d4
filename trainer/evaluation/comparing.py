# SPDX-License-Identifier: Apache-2.0
"""Two models' answers to the same questions: how large is the difference, and is it real?"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from .answer_files import SETTINGS, AnswerFiles, different_settings, read_settings
from .controls import OWN
from .decoding import Decoding
from .intervals import Measure
from .tasks import TASKS, by_picture


LEVEL = 0.05
DECODING = [field.name for field in fields(Decoding)]
COMPARED = ("checkpoint", *DECODING)


def compare(one: Path, other: Path) -> str:
    """
    Compares two folders of answers, of scripts/evaluate.py.

    Args:
        one (`Path`), other (`Path`): with the same tasks, asked the same questions in the same way; they may be
            decoded in different ways.

    Returns:
        `str`: for each task a table of both models' scores, their differences with 95 % intervals and p-values, and
        a sentence on the measure that counts.

    Raises:
        `ValueError`: a folder has no answers, or the two answered different questions.
    """
    tasks = [task for task in TASKS if all((folder / task / SETTINGS).is_file() for folder in (one, other))]
    if not tasks:
        raise ValueError(f"{one} and {other} have no task in common: evaluate both on the same tasks first.")
    return "\n\n".join(compare_task(task, one / task, other / task) for task in tasks)


def compare_task(task: str, one: Path, other: Path) -> str:
    settings = [read_settings(folder) for folder in (one, other)]
    different = [name for name in different_settings(*settings) if name not in COMPARED]
    if different:
        name = different[0]
        raise ValueError(
            f"{one} and {other} were not asked the same: `{name}` is {settings[0].get(name)!r:.70} and "
            f"{settings[1].get(name)!r:.70}; evaluate both alike."
        )
    rows = [own_rows(folder) for folder in (one, other)]
    if rows[0].keys() != rows[1].keys():
        missing = len(rows[0].keys() ^ rows[1].keys())
        raise ValueError(f"{missing} questions are answered in only one of {one} and {other}: finish both runs first.")
    keys = sorted(rows[0])
    of_both = [[of[key] for key in keys] for of in rows]
    a, b = (by_picture(TASKS[task].measure(of), of) for of in of_both)
    lines = [f"| {task} | A | B | B - A | p |", "|---|---:|---:|---:|---:|"]
    for name, measure in b.items():
        difference = measure.minus(a[name])
        lines.append(
            f"| {name} | {a[name].estimate()} | {measure.estimate()} | {difference.value:+.3f} "
            f"[{difference.low:+.3f}, {difference.high:+.3f}] | {measure.p_value(a[name]):.4f} |"
        )
    name = next(iter(a))
    first, second = map(name_run, settings)
    return f"A is {first}, B is {second}.\n\n" + "\n".join(lines) + f"\n\n{say_whether_real(name, b[name], a[name])}"


def name_run(settings: dict[str, Any]) -> str:
    decoding = str(Decoding(**{name: settings.get(name) for name in DECODING}))
    return f"{settings['model']} with {decoding}" if decoding else settings["model"]


def own_rows(folder: Path) -> dict[int, dict[str, Any]]:
    """The answers about the own pictures, by their keys."""
    rows = {key: row for (shown, key), row in AnswerFiles(folder).answered.items() if shown == OWN}
    if not rows:
        raise ValueError(f"{folder} holds no answers: run the evaluation first.")
    return rows


def say_whether_real(name: str, b: Measure, a: Measure) -> str:
    """One sentence on the difference of two measures."""
    difference, p = b.minus(a), b.p_value(a)
    if p >= LEVEL:
        return (
            f"Is it real? Not shown: a difference in {name} of {difference.value:+.3f} could be chance (p = {p:.3f})."
        )
    which = "B" if difference.value > 0 else "A"
    return f"Is it real? Yes: {which} has the higher {name}, by {abs(difference.value):.3f} (p = {p:.4f})."

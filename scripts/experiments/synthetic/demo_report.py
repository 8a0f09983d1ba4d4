# SPDX-License-Identifier: Apache-2.0
"""The demo's report: a table of caption attribute accuracies, a sentence, and a picture."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev

import matplotlib


matplotlib.use("Agg")  # no window is opened

import matplotlib.pyplot as plt  # noqa: E402

from experiments.synthetic.synthetic_world import Scene, attribute_accuracy, attribute_hits  # noqa: E402


COLUMNS = {
    "all": "attributes",
    "colour": "colours",
    "shape": "shapes",
    "size": "sizes",
    "relation": "relation",
    "exact": "all seven right",
}


def accuracy_table(scenes: Sequence[Scene], captions: Mapping[str, Sequence[str]]) -> str:
    """A markdown table: one row per system, the share of attributes that its captions state correctly."""
    lines = [f"| caption written by | {' | '.join(COLUMNS.values())} |", "|---|" + "---:|" * len(COLUMNS)]
    for system, answers in captions.items():
        accuracy = attribute_accuracy(scenes, answers)
        lines.append(f"| {system} | {' | '.join(f'{accuracy[kind]:.2f}' for kind in COLUMNS)} |")
    return "\n".join(lines)


def compare_captions(
    scenes: Sequence[Scene], names: tuple[str, str], captions: tuple[Sequence[str], Sequence[str]]
) -> str:
    """Says which of two systems states more attributes correctly, and whether the scenes suffice to tell."""
    hits = [[attribute_hits(*pair)["all"] for pair in zip(scenes, answers, strict=True)] for answers in captions]
    differences = [first - second for first, second in zip(*hits, strict=True)]
    mean, error = fmean(differences), stdev(differences) / sqrt(len(differences))
    if abs(mean) <= 2 * error:
        verdict = "cannot be told apart from"
    else:
        verdict = "is better than" if mean > 0 else "is worse than"
    return (
        f"{names[0]} {verdict} {names[1]} on these {len(scenes)} scenes: {mean:+.3f} of the attributes, "
        f"standard error {error:.3f}; one seed."
    )


def save_scene_picture(
    scenes: Sequence[Scene], captions: Mapping[str, Sequence[str]], path: str | os.PathLike
) -> None:
    """
    Draws scenes with their captions beneath, four a row, and how many of the seven attributes each caption has right.

    Args:
        scenes (`Sequence[Scene]`): what to show.
        captions (`Mapping[str, Sequence[str]]`): by system, in the scenes' order.
        path (`str` or `os.PathLike`): of the picture, its format given by its suffix.
    """
    columns = min(4, len(scenes))
    rows = -(-len(scenes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 4.6 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, (axis, scene) in enumerate(zip(axes.flat, scenes, strict=False)):
        axis.imshow(scene.draw(), interpolation="nearest")
        notes = []
        for system, answers in captions.items():
            right = round(7 * attribute_hits(scene, answers[index])["all"])
            notes.append(f"{system} ({right}/7):\n" + textwrap.fill(answers[index], 38))
        axis.text(0, -0.04, "\n".join(notes), transform=axis.transAxes, va="top", fontsize=9)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)

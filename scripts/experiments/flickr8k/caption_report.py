# SPDX-License-Identifier: Apache-2.0
"""Results a person can read: a markdown table of scores, and a picture of photos with the captions they were given."""

import os
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt

from trainer.data.captioned_photos import CaptionedPhoto
from trainer.data.images import open_image


def score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A markdown table, one row per system, of scores by name; all rows must have the same scores."""
    names = list(next(iter(scores.values())))
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    lines += [f"| {system} | {' | '.join(f'{row[name]:.3f}' for name in names)} |" for system, row in scores.items()]
    return "\n".join(lines)


def save_caption_picture(
    photos: Sequence[CaptionedPhoto], captions: Mapping[str, Mapping[str, str]], path: str | os.PathLike
) -> None:
    """
    Draws each photo with one caption per system and a human one beneath it.

    Args:
        photos (`Sequence[CaptionedPhoto]`): at most four a row.
        captions (`Mapping[str, Mapping[str, str]]`): caption by photo name, by system.
        path (`str` or `os.PathLike`): of the picture, its format given by its suffix.
    """
    columns = min(4, len(photos))
    rows = -(-len(photos) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 5.6 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, photo in zip(axes.flat, photos, strict=False):
        axis.imshow(open_image(photo.image))
        texts = {**{system: answers[photo.name] for system, answers in captions.items()}, "human": photo.captions[0]}
        text = "\n".join(textwrap.fill(f"{system}: {caption}", 44) for system, caption in texts.items())
        axis.text(0, -0.03, text, transform=axis.transAxes, va="top", fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.2, hspace=0.75, wspace=0.06)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def draw_curves(curves: Mapping[str, Sequence[Mapping[int, float]]], path: str | os.PathLike) -> None:
    """
    Draws the CIDEr of several starts over the steps of finetuning: lines are means, bands reach from seed to seed.

    Args:
        curves (`Mapping[str, Sequence[Mapping[int, float]]]`): CIDEr by step, of every seed, by start.
        path (`str` or `os.PathLike`): of the picture, its format given by its suffix.
    """
    figure, axis = plt.subplots(figsize=(8, 5))
    for start, of_seeds in curves.items():
        steps = list(of_seeds[0])
        values = [[curve[step] for curve in of_seeds] for step in steps]
        (line,) = axis.plot(steps, [sum(at) / len(at) for at in values], marker="o", label=start)
        axis.fill_between(
            steps, [min(at) for at in values], [max(at) for at in values], color=line.get_color(), alpha=0.15
        )
    axis.set_xlabel("steps of joint finetuning with language model B")
    axis.set_ylabel("CIDEr-D, Flickr8k test photos")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)

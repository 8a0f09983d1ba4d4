# SPDX-License-Identifier: Apache-2.0
"""The previews of a training for a person to read: a markdown table, the photos with their words, and a curve."""

import re
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image


PANEL = 5.0  # inches, one photo's width in a picture
INTRODUCTION = """\
# The visual tokens' closest words

Cosine: of each visual token with the closest of the shared words, as the language model embeds them, mean over a
photo's tokens. Length: of the visual tokens, as a multiple of a word's, both in the mean. Closest words: those that
most of the photo's visual tokens are closest to, and how many are.
"""


def rows_by_photo(records: list[dict]) -> dict[str, list[tuple[int, dict]]]:
    rows: dict[str, list[tuple[int, dict]]] = {}
    for record in records:
        for photo in record["photos"]:
            rows.setdefault(photo["name"], []).append((record["step"], photo))
    return rows


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def list_words(photo: dict) -> str:
    return ", ".join(f"{word} {count}" for word, count in photo["words"].items())


def escape(text: str) -> str:
    """Keeps a caption from being read as markdown, a table's cell, HTML or a formula."""
    return re.sub(r"([\\`*_\[\]<>|$~#&])", r"\\\1", " ".join(text.split()))


def preview_table(records: list[dict]) -> str:
    """The records as markdown: for every photo a table with a row a step."""
    lines = [INTRODUCTION, "![The mean cosine over the steps](closeness.png)", ""]
    lines += ["| step | cosine | length |", "|---:|---:|---:|"]
    lines += [f"| {r['step']} | {r['word_closeness']:.3f} | {r['visual_token_length']:.3g} |" for r in records]
    for name, rows in rows_by_photo(records).items():
        lines += ["", f"## {escape(name)}", ""]
        lines += ["| step | caption | closest words | cosine | length |", "|---:|---|---|---:|---:|"]
        lines += [
            f"| {step} | {escape(photo['caption'])} | {escape(list_words(photo))} | {photo['word_closeness']:.3f} "
            f"| {photo['visual_token_length']:.3g} |"
            for step, photo in rows
        ]
    last = records[-1]["step"]
    lines += ["", f"## Step {last}", "", f"![The photos at step {last}](step-{last:06d}.png)", ""]
    return "\n".join(lines)


def draw_photos(record: dict, pictures: Sequence[Image.Image]) -> Figure:
    """A preview's photos, as pictures of one size, side by side, at most four a row, with their captions beneath."""
    texts = []
    for photo in record["photos"]:
        lines = [photo["caption"] or "(an empty caption)", f"Closest words: {list_words(photo)}"]
        texts.append("\n".join(textwrap.fill(line, 72) for line in lines))
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    height = PANEL * pictures[0].height / pictures[0].width + 0.5 + 0.15 * (1 + max(t.count("\n") for t in texts))
    figure = Figure(figsize=(PANEL * columns, height * rows + 0.3), dpi=130, layout="constrained")
    title = f"Step {record['step']}: mean cosine with the closest word {record['word_closeness']:.2f}"
    figure.suptitle(title, fontsize=11, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis in axes[len(pictures) :]:
        axis.remove()
    for axis, photo, picture, text in zip(axes, record["photos"], pictures, texts, strict=False):
        axis.imshow(picture, interpolation="antialiased")
        axis.set(xticks=[], yticks=[])
        axis.set_title(
            f"{shorten(photo['name'], 36)}: {photo['word_closeness']:.2f}", fontsize=9, loc="left", parse_math=False
        )
        axis.set_xlabel(text, fontsize=8.5, loc="left", parse_math=False)
    return figure


def draw_closeness(records: list[dict]) -> Figure:
    """The mean cosine with the closest word over the steps, a line a photo and a bold one for their mean."""
    figure = Figure(figsize=(8, 4.5), dpi=130, layout="constrained")
    axis = figure.subplots()
    for name, rows in rows_by_photo(records).items():
        steps, photos = zip(*rows, strict=True)
        cosines = [photo["word_closeness"] for photo in photos]
        axis.plot(steps, cosines, marker="o", markersize=3, linewidth=1, alpha=0.7, label=shorten(name, 30))
    steps = [record["step"] for record in records]
    mean = [record["word_closeness"] for record in records]
    axis.plot(steps, mean, marker="o", linewidth=3, color="black", label="mean")
    axis.set(title="How close the visual tokens are to words", xlabel="training step", ylabel="mean largest cosine")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    for text in figure.legend(loc="outside right upper", fontsize=8).get_texts():
        text.set_parse_math(False)
    return figure

# SPDX-License-Identifier: Apache-2.0
"""Draws what the patches of photos say at each stage of a training: a row a patch, a column a stage."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from PIL import ImageOps

from .explaining import Explanation
from .fonts import find_font_file


WORDS = 3  # words of a kind in a cell
COLUMN, PHOTO, PATCH, HEAD, GAP, LINE = 1.75, 2.6, 1.05, 0.62, 0.3, 0.2  # inches
INK, QUIET, ACCENT = "#1f1d1a", "#8a847a", "#b45309"
KINDS = {"cosine": INK, "coefficients": ACCENT}
HEADINGS = {"cosine": "nearest words, with their cosines", "coefficients": "strongest coefficients"}


def choose_patches(explanation: Explanation, number: int) -> list[tuple[int, int]]:
    """The rows and columns of the patches with the largest first numbers, each with another first word."""
    rows, columns = explanation.grid
    places = [(row, column) for row in range(rows) for column in range(columns)]
    places.sort(key=lambda place: -abs(explanation.patches[place[0]][place[1]][0][1]))
    chosen: dict[str, tuple[int, int]] = {}
    for row, column in places:
        chosen.setdefault(explanation.patches[row][column][0][0].lower(), (row, column))
    return sorted(list(chosen.values())[:number])


def draw_progress(photos: dict[str, dict[str, Explanation]], patches: dict[str, list[tuple[int, int]]]) -> Figure:
    """
    Draws the words of a few patches of photos at each stage.

    Args:
        photos (`dict[str, dict[str, Explanation]]`):
            For each photo's name what [`~.progress.explain_stage`] finds at each stage, by the stage's name, in order.
        patches (`dict[str, list[tuple[int, int]]]`): For each photo's name the rows and columns of its patches.

    Returns:
        `matplotlib.figure.Figure`.
    """
    first = next(iter(photos.values()))
    stages, kinds = list(first), [view.name for view in next(iter(first.values())).views]
    row_height = LINE * (WORDS * len(kinds) + 0.2 * (len(kinds) - 1)) + 0.24
    heights = [max(row_height * len(patches[name]), PHOTO) for name in photos]
    left = PHOTO + 2 * GAP + PATCH
    width, height = left + COLUMN * len(stages) + GAP, HEAD + sum(heights) + GAP * len(heights) + 0.2
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.axis("off")
    for number, stage in enumerate(stages):
        write(axis, left + COLUMN * number + 0.1, HEAD / 2, stage, INK, 10, COLUMN - 0.2, weight="bold")
    for number, kind in enumerate(kinds):
        axis.text(GAP / 2, 0.2 + 0.2 * number, HEADINGS[kind], color=KINDS[kind], fontsize=8.5, va="center")
    top = HEAD
    for (name, explanations), block in zip(photos.items(), heights, strict=True):
        draw_photo(axis, name, next(iter(explanations.values())), patches[name], top)
        for index, patch in enumerate(patches[name]):
            y = top + index * row_height
            draw_patch(axis, next(iter(explanations.values())), patch, index, y, row_height)
            for number, explanation in enumerate(explanations.values()):
                draw_cell(axis, explanation, patch, left + COLUMN * number, y, row_height)
        top += block + GAP
    return figure


def draw_photo(axis: Axes, name: str, explanation: Explanation, patches: list[tuple[int, int]], top: float) -> None:
    """The photo with its patches framed and numbered."""
    rows, columns = explanation.grid
    x, size = GAP / 2, (PHOTO - 0.25) / max(rows, columns)
    axis.imshow(explanation.view, extent=(x, x + columns * size, top + rows * size, top), aspect="auto", zorder=1)
    for number, (row, column) in enumerate(patches, 1):
        corner = x + column * size, top + row * size
        axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="white", linewidth=1.6, zorder=2))
        label = {"facecolor": INK, "edgecolor": "none", "pad": 1.5}
        axis.text(*corner, str(number), color="white", fontsize=7, va="center", ha="center", bbox=label, zorder=3)
    write(axis, x, top + rows * size + 0.13, name, QUIET, 7.5, PHOTO - 0.25)


def draw_patch(
    axis: Axes, explanation: Explanation, patch: tuple[int, int], index: int, top: float, height: float
) -> None:
    """The patch, twice as wide as it is so that one sees what it is of, beside its number."""
    rows, columns = explanation.grid
    row, column = patch
    side = explanation.view.width / columns
    around = ImageOps.expand(explanation.view, round(side), fill="white")  # beyond the photo's edge
    box = ((column + 0.5) * side, (row + 0.5) * side, (column + 2.5) * side, (row + 2.5) * side)
    size = min(PATCH - 0.3, height - 0.12)
    x, y = PHOTO + GAP + 0.2, top + (height - size) / 2
    axis.imshow(around.crop(box), extent=(x, x + size, y + size, y), aspect="auto", zorder=1)
    inner = Rectangle((x + size / 4, y + size / 4), size / 2, size / 2, fill=False, edgecolor=ACCENT, zorder=2)
    axis.add_patch(inner)
    axis.text(x - 0.08, top + height / 2, str(index + 1), color=QUIET, fontsize=8, ha="right", va="center")


def draw_cell(
    axis: Axes, explanation: Explanation, patch: tuple[int, int], left: float, top: float, height: float
) -> None:
    """The words of a patch at one stage; the larger the first number of its first view, the deeper the ground."""
    (row, column), y = patch, top + 0.12
    strength = min(1.0, abs(explanation.patches[row][column][0][1]))
    cell = Rectangle((left, top), COLUMN - 0.06, height - 0.06, color=ACCENT, alpha=0.04 + 0.3 * strength, linewidth=0)
    axis.add_patch(cell)
    for view in explanation.views:
        for place, (word, number) in enumerate(view.patches[row][column][:WORDS]):
            middle, weight = y + LINE / 2, "bold" if place == 0 else "normal"
            write(axis, left + 0.1, middle, word, KINDS[view.name], 9, COLUMN - 0.7, weight=weight)
            text = f"{100 * number:.0f} %" if view.is_share else f"{number:.2f}".replace("-", "−")
            axis.text(left + COLUMN - 0.16, middle, text, color=QUIET, fontsize=7.5, ha="right", va="center")
            y += LINE
        y += 0.2 * LINE


def write(axis: Axes, x: float, y: float, text: str, color: str, size: float, width: float, weight="normal") -> None:
    """Writes a line of any script, smaller where it would be wider than `width` inches."""
    font = FontProperties(fname=find_font_file(text, weight == "bold"), size=size)
    written = axis.text(x, y, text, color=color, fontproperties=font, va="center", parse_math=False)
    length = written.get_window_extent().width / axis.figure.dpi
    written.set_fontsize(size * min(1.0, width / length))

# SPDX-License-Identifier: Apache-2.0
"""Fonts for words in any script, among those that matplotlib finds on this machine."""

import warnings
from functools import cache
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from PIL import ImageFont


def load_font(word: str, size: float) -> ImageFont.FreeTypeFont:
    """The font for a word, at a size in pixels: DejaVu Sans or, where it lacks letters, the first font with more."""
    return ImageFont.truetype(find_font_file(word), size)


@cache
def find_font_file(word: str, bold: bool = False) -> str:
    letters = {ord(letter) for letter in word if not letter.isspace()}
    own = findfont("DejaVu Sans:bold" if bold else "DejaVu Sans")  # comes with matplotlib
    if letters <= letters_of(own):
        return own
    # Last Resort, which comes with matplotlib, claims every letter and draws a sign of its script in place of each.
    others = [font for font in fontManager.ttflist if not font.name.startswith("Last Resort")]
    weight = 700 if bold else 400
    others.sort(key=lambda font: (font.style != "normal", abs(font.weight - weight), font.fname))
    files = [own, *dict.fromkeys(font.fname for font in others)]
    return max(files, key=lambda file: len(letters & letters_of(file)))


@cache
def letters_of(file: str) -> frozenset[int]:
    """The code points that a font has glyphs for."""
    return frozenset(get_font(file).get_charmap())


def save_figure(figure: Figure, path: Path) -> None:
    """Saves a matplotlib figure as a PNG; letters that no installed font has are boxes, without a warning each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(path, format="png")

# SPDX-License-Identifier: Apache-2.0
"""Fonts for words in any script, among those that matplotlib finds on this machine."""

from functools import cache

from matplotlib.font_manager import findfont, fontManager, get_font
from PIL import ImageFont


def load_font(word: str, size: float) -> ImageFont.FreeTypeFont:
    """The font for a word, at a size in pixels: DejaVu Sans or, where it lacks letters, the first font with more."""
    return ImageFont.truetype(find_font_file(word), size)


@cache
def find_font_file(word: str) -> str:
    letters = {ord(letter) for letter in word if not letter.isspace()}
    own = findfont("DejaVu Sans")  # comes with matplotlib
    if letters <= letters_of(own):
        return own
    installed = [own, *sorted({font.fname for font in fontManager.ttflist})]
    return max(installed, key=lambda file: len(letters & letters_of(file)))


@cache
def letters_of(file: str) -> frozenset[int]:
    """The code points that a font has glyphs for."""
    return frozenset(get_font(file).get_charmap())

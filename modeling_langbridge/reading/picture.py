# SPDX-License-Identifier: Apache-2.0
"""The picture of an explanation: the photo with its patches' strongest words, for papers and cards."""

from PIL import Image, ImageDraw, ImageOps

from .explaining import Explanation
from .fonts import load_font
from .patch_words import draw_words


NOT_IDENTIFIABLE = "coefficients not identifiable: many others give the same visual tokens"


def draw_explanation(explanation: Explanation) -> Image.Image:
    """Writes the strongest words on the photo, and below it that they are not identifiable where that is so."""
    picture = draw_words(explanation, load_font)
    if explanation.is_identifiable:
        return picture
    size = picture.width / 45  # of the letters, in pixels
    below = ImageOps.expand(picture, (0, 0, 0, round(2 * size)), "white")
    middle = picture.width / 2, picture.height + size
    font = load_font(NOT_IDENTIFIABLE, size)
    ImageDraw.Draw(below).text(middle, NOT_IDENTIFIABLE, fill="black", font=font, anchor="mm")
    return below

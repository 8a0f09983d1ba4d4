# SPDX-License-Identifier: Apache-2.0
"""A picture for the card: photos with the strongest words written on their patches."""

from pathlib import Path

from PIL import Image

from modeling_langbridge.adapter.loading import open_model
from modeling_langbridge.reading.fonts import load_font
from modeling_langbridge.reading.patch_words import draw_words, strongest_words


def draw_words_picture(folder: Path, photos: list[Path]) -> Image.Image:
    """
    Reads photos with a model and writes on their patches the strongest words, once where neighbours have the same.

    Args:
        folder (`Path`):
            The folder of the model, with its processor. The package's own code is run, not the folder's.
        photos (`list[Path]`):
            The photos.

    Returns:
        `Image.Image`: the photos side by side.

    Raises:
        `ValueError`: the model cannot be read, a photo cannot be opened, or the model's adapter is not made of words.
    """
    model, processor = open_model(str(folder), device_map=None)
    drawn = [draw_words(strongest_words(model, processor, photo), load_font) for photo in photos]
    picture = Image.new("RGB", (sum(one.width for one in drawn), max(one.height for one in drawn)), "white")
    left = 0
    for one in drawn:
        picture.paste(one, (left, 0))
        left += one.width
    return picture

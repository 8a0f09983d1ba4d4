# SPDX-License-Identifier: Apache-2.0
"""A photo's words and where each of them is, as pictures and as the page that scripts/explain.py makes."""

from pathlib import Path
from typing import Any

from PIL import Image

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.image_opening import open_image
from modeling_langbridge.reading.explaining import explain
from modeling_langbridge.reading.page import render_page
from modeling_langbridge.reading.patch_words import draw_heat, strongest_words


WIDEST = 640  # pixels


def write_photo_words(
    model: LangBridgeForConditionalGeneration, processor: LangBridgeProcessor, photo: Path, folder: Path, number: int
) -> dict[str, Any]:
    """
    Writes a photo's pictures and its page, and returns what they show.

    Args:
        model, processor (`LangBridgeForConditionalGeneration`, `LangBridgeProcessor`):
            An adapter without a language model, with `words_per_image`.
        photo (`Path`): Its file.
        folder (`Path`): Gets the pictures and the page.
        number (`int`): Of the photo, which their names begin with.

    Returns:
        `dict`: the photo's `name`, its `words` with their `share` and `picture`, the file of its `picture` and its
        `page`, and how much its patches `say`, from 0 to 1.
    """
    image = open_image(photo)
    name = photo.name.encode(errors="replace").decode()  # a file's name need not be text
    found = strongest_words(model, processor, image)
    explanation = explain(model, processor, image, has_language_model=False)
    (folder / f"{number}.html").write_text(render_page(name, {"the adapter": explanation}), encoding="utf-8")
    shown = image.copy()
    shown.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    shown.save(folder / f"{number}.jpg", quality=88)
    words = []
    for place, (word, share) in enumerate(found.photo):
        picture = f"{number}_{place}.jpg"
        draw_heat(found, word).resize(shown.size, Image.Resampling.BICUBIC).save(folder / picture, quality=85)
        words.append({"word": word, "share": share, "picture": picture})
    return {
        "name": name,
        "picture": f"{number}.jpg",
        "page": f"{number}.html",
        "words": words,
        "says": explanation.gate.mean().item(),
    }

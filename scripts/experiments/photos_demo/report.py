# SPDX-License-Identifier: Apache-2.0
"""What the demo says at its end: captions, three paragraphs of what was shown and what was not, and a picture."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib


matplotlib.use("Agg")  # no window is opened

import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402


ROWS, WORDS = 5, 4  # of the picture: photos, and words of each


def say_what_was_shown(
    language_models: Sequence[str], same_words: bool, steps: int, losses: Sequence[float], held_out: Sequence[float]
) -> list[str]:
    """
    Three paragraphs: what was shown of the photos, what of the training, and what was not shown.

    Args:
        language_models (`Sequence[str]`): The names of those that captioned the photos.
        same_words (`bool`): Whether the coefficients were equal with each of them, and without any.
        steps (`int`): Of the training.
        losses (`Sequence[float]`): Along the training.
        held_out (`Sequence[float]`): The loss on scenes that were kept out, before and after.
    """
    names = " and ".join(language_models)
    if same_words:
        words = f"The words are the same without a language model and inside {names}, bit for bit."
    else:
        words = f"The words inside {names} are not those without a language model, which is a fault: report it."
    if len(language_models) > 1:
        moved = "The second language model is of another family, with another tokenizer and width."
    else:
        moved = (
            "A second language model was not shown, as no other is free of terms: --accept_gemma_terms adds Gemma 3 "
            "270M, with the same adapter."
        )
    return [
        f"Shown: photos as words of the adapter that ships, and captions by {names}, for which nothing was trained. "
        f"{words} {moved}",
        f"Shown: a new adapter, {steps} steps on drawn scenes through SmolLM2. The loss falls from {losses[0]:.2f} "
        f"to {losses[-1]:.2f}, and on scenes that were kept out from {held_out[0]:.2f} to {held_out[1]:.2f}. The "
        "checkpoint was loaded in a fresh process by transformers' pipeline.",
        "Not shown: good captions. The adapter has 2,000 words, learned from 6,000 photos, mostly of people and "
        "dogs, and none for a lion or a cheetah. The language models are small, and see the words, not the photo. "
        "Two minutes of training show that the loss falls, not how good an adapter becomes: docs/results.md does.",
    ]


def list_captions(photos: Sequence[Mapping[str, Any]], captions: Mapping[str, Sequence[str]]) -> list[str]:
    """For the shell: each photo's name and words, and its captions."""
    lines = []
    for number, photo in enumerate(photos):
        lines.append(f"{photo['name']}: {' '.join(word['word'] for word in photo['words'])}")
        lines += [f"  {name}: {texts[number]}" for name, texts in captions.items()]
    return lines


def save_picture(
    photos: Sequence[Mapping[str, Any]], captions: Mapping[str, Sequence[str]], words: Path, path: str | os.PathLike
) -> None:
    """
    Draws the first photos, a row each: the photo, where its strongest words are, and its captions.

    Args:
        photos, captions: As of [`~experiments.photos_demo.page.render_demo`].
        words (`Path`): The folder of the pictures.
        path (`str` or `os.PathLike`): Of the picture to write, a PNG.
    """
    photos = photos[:ROWS]
    figure, axes = plt.subplots(
        len(photos), WORDS + 2, figsize=(2.1 * (WORDS + 2.2), 2.35 * len(photos)), squeeze=False
    )
    for number, (row, photo) in enumerate(zip(axes, photos, strict=True)):
        shown = [(photo["picture"], ""), *((word["picture"], word["word"]) for word in photo["words"][:WORDS])]
        for axis, (picture, title) in zip(row, shown, strict=False):
            with Image.open(words / picture) as opened:
                axis.imshow(ImageOps.fit(opened, (300, 300)))
            axis.set_title(title, fontsize=12, parse_math=False)
        for axis in row:
            axis.axis("off")
        texts = [f"{textwrap.fill(texts[number], 24)}\n— {name}" for name, texts in captions.items()]
        row[-1].text(0, 0.5, "\n\n".join(texts), va="center", fontsize=10.5, parse_math=False)
    figure.tight_layout(pad=0.6)
    figure.savefig(path, format="png", dpi=110)
    plt.close(figure)

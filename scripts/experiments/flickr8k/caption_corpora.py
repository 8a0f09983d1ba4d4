# SPDX-License-Identifier: Apache-2.0
"""Captions and photos as the data folder keeps them: text for small language models, photos for adapters."""

import dataclasses
import gzip
import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, Features, Image, List, Value

from trainer.data.caption_words import content_words
from trainer.data.captioned_photos import CaptionedPhoto, read_captioned_photos


def tidy(caption: str) -> str:
    """A caption without outer blanks and without the blank that some corpora put before punctuation."""
    return re.sub(r"\s+([.,!?;])", r"\1", " ".join(caption.split()))


def read_caption_text(folder: str | os.PathLike, *, seed: int) -> list[str]:
    """
    Reads every `*.txt.gz` of a folder, one caption per line: each distinct caption once, in random order.

    Raises:
        `FileNotFoundError`: the folder holds no such file.
    """
    files = sorted(Path(folder).glob("*.txt.gz"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.txt.gz of captions: point --data at the folder that has them.")
    captions: dict[str, None] = {}
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            captions.update((tidy(line), None) for line in lines if line.strip())
    shuffled = list(captions)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def read_flickr8k(folder: str | os.PathLike, split: str, limit: int | None = None) -> list[CaptionedPhoto]:
    """
    Reads a split of Flickr8k from `captions.jsonl` and `images/`, with its captions tidied.

    Args:
        folder (`str` or `os.PathLike`): holds both.
        split (`str`): `"train"`, `"dev"`, `"test"` or `"extra"`.
        limit (`int`, *optional*): the number of photos to keep, the first ones of the file; all where not given.

    Raises:
        `ValueError`: `captions.jsonl` cannot be read, or has no photo in this split.
    """
    photos = read_captioned_photos(str(Path(folder) / "captions.jsonl"), split=split)[:limit]
    return [dataclasses.replace(photo, captions=[tidy(caption) for caption in photo.captions]) for photo in photos]


def most_used_words(captions: Sequence[str], count: int) -> list[str]:
    """The content words that most of the captions use."""
    uses = Counter(word for caption in captions for word in content_words(caption))
    return [word for word, _ in uses.most_common(count)]


def caption_dataset(photos: Sequence[CaptionedPhoto]) -> Dataset:
    """
    One training row per human caption, in TRL's conversational prompt-completion form with an `images` column.

    The prompt is the photo alone: small language models know no instructions.
    """
    pairs = [(photo, caption) for photo in photos for caption in photo.captions]
    message = [{"role": Value("string"), "content": Value("string")}]
    return Dataset.from_dict(
        {
            "images": [[photo.image] for photo, _ in pairs],
            "prompt": [[{"role": "user", "content": ""}]] * len(pairs),
            "completion": [[{"role": "assistant", "content": caption}] for _, caption in pairs],
        },
        features=Features({"images": List(Image()), "prompt": message, "completion": message}),
    )

# SPDX-License-Identifier: Apache-2.0
"""Yes-or-no questions about objects in photos, made from the photos' captions: as many of either answer."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from trainer.data.caption_words import content_words
from trainer.data.captioned_photos import CaptionedPhoto


# What follows a word that names an object, and no other: "a dog in the snow", "a dog running", but "a black dog".
AFTER_AN_OBJECT = r"(?:\w+ing|is|are|in|on|with|and|at|near|by|that|who)\b|[.,]|$"


class Question(NamedTuple):
    """A question about one of several photos."""

    photo: int
    text: str
    is_yes: bool


def find_objects(photos: Sequence[CaptionedPhoto], least: int = 20) -> Counter:
    """The words that captions use as names of objects (`a … in`, `the … is`), with the number of photos they are in;
    those of `least` photos and more."""
    named, used, of_photos = Counter(), Counter(), Counter()
    for photo in photos:
        text = "\n".join(caption.lower() for caption in photo.captions)
        named.update(re.findall(rf"\b(?:an?|the) (\w+) ?(?={AFTER_AN_OBJECT})", text, flags=re.M))
        used.update(word for caption in photo.captions for word in content_words(caption))
        of_photos.update({word for caption in photo.captions for word in content_words(caption)})
    return Counter(
        {word: count for word, count in of_photos.items() if count >= least and named[word] >= 0.2 * used[word]}
    )


def make_questions(photos: Sequence[CaptionedPhoto], objects: Counter, seed: int) -> list[Question]:
    """
    Two questions about each photo that has an object which at least two captions name: about this one, and about
    another that no caption names, drawn by how many photos it is in, so that a word alone does not tell the answer.

    Args:
        photos (`Sequence[CaptionedPhoto]`): What is asked about.
        objects (`Counter`): From [`find_objects`], of other photos.
        seed (`int`): Of the draws.
    """
    generator = random.Random(seed)
    names, weights = zip(*sorted(objects.items()), strict=True)
    questions = []
    for position, photo in enumerate(photos):
        counts = Counter(word for caption in photo.captions for word in content_words(caption))
        there = sorted(word for word, count in counts.items() if count >= 2 and word in objects)
        if not there:
            continue
        absent = next(name for name in iter(lambda: generator.choices(names, weights)[0], None) if name not in counts)
        questions += [
            Question(position, ask_for(generator.choice(there)), True),
            Question(position, ask_for(absent), False),
        ]
    return questions


def ask_for(word: str) -> str:
    article = "an" if word[0] in "aeiou" else "a"
    return f"Is there {article} {word} in the photo?"

# SPDX-License-Identifier: Apache-2.0
"""
Does it look at the picture at all? The same questions without it, with another one, and with its words as text.

Examples before a question lose their pictures with it, or have them as words, too; another picture leaves them theirs.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from modeling_langbridge.reading.patch_words import strongest_words

from .questions import Question, name_image


OWN, NONE, ANOTHER, WORDS = SHOWN = ("its own picture", "no picture", "another picture", "its words as text")


def find_others(questions: Iterable[Question]) -> dict[str, Any]:
    """
    For the name of each image another image of the same questions, always the same one: in a fixed random order, the
    next.

    Raises:
        `ValueError`: there are not two images.
    """
    images = {name_image(image): image for question in questions for image in question.images}
    if len(images) < 2:
        raise ValueError(f"--controls show another picture, but there are {len(images)}: give data with two or more.")
    names = sorted(images)
    random.Random(0).shuffle(names)
    return {name: images[names[place - 1]] for place, name in enumerate(names)}


def without_images(question: Question) -> Question:
    return replace(question, images=[], examples=tuple(map(without_images, question.examples)))


def with_other_images(question: Question, others: dict[str, Any]) -> Question:
    return replace(question, images=[others[name_image(image)] for image in question.images])


def with_words(questions: Sequence[Question], model: PreTrainedModel, processor: ProcessorMixin) -> list[Question]:
    """Questions with each image's strongest words in its place: those that the language model reads, or ten."""
    told: dict[str, str] = {}

    def tell(image: Any) -> str:
        name = name_image(image)
        if name not in told:
            words = strongest_words(model, processor, image).photo
            told[name] = f"The picture shows: {', '.join(word.strip() for word, _ in words)}.\n"
        return told[name]

    def in_words(question: Question) -> Question:
        prompt = "".join(map(tell, question.images)) + question.prompt
        return replace(question, images=[], prompt=prompt, examples=tuple(map(in_words, question.examples)))

    return list(map(in_words, questions))

# SPDX-License-Identifier: Apache-2.0
"""What a language model is told of an image: a template around its words, by place, the uncertain marked as such."""

from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from modeling_langbridge.reading.word_places import PlacedWord


WORDS, NUMBER = "{words}", "{number}"
TEMPLATE = f"[Image {NUMBER} shows, strongest first: {WORDS}]"


def list_words(words: "Sequence[PlacedWord]", sure: float) -> str:
    """
    The words of an image in a line such as `centre: dog, maybe ball; bottom: grass`.

    Args:
        words (`Sequence[PlacedWord]`): The strongest first. So are the places, by their strongest words.
        sure (`float`): The share of the coefficients below which a word is marked as uncertain.
    """
    places: dict[str, list[str]] = {}
    for word in words:
        places.setdefault(word.place, []).append(word.word if word.share >= sure else f"maybe {word.word}")
    return "; ".join(f"{place}: {', '.join(listed)}" for place, listed in places.items())


def fill_template(template: str, number: int, words: str) -> str:
    """The text for an image. `str.format` is not used: braces mean nothing else in a template."""
    return template.replace(NUMBER, str(number)).replace(WORDS, words)

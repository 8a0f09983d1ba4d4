# SPDX-License-Identifier: Apache-2.0
"""Where in a photo its words are: upper left, bottom, centre."""

from dataclasses import dataclass

import torch

from .patch_words import NamedNumbers


MOST = 0.5  # of a word's strength must lie in one third of the width or the height, for that third to be named
ANYWHERE = "throughout"
NAMES = {
    ("upper", "left"): "upper left",
    ("upper", "right"): "upper right",
    ("lower", "left"): "lower left",
    ("lower", "right"): "lower right",
    ("middle", "middle"): "centre",
}
ALONE = {"upper": "top", "lower": "bottom", "left": "left", "right": "right"}


@dataclass(frozen=True)
class PlacedWord:
    """
    A word of a photo.

    Args:
        word (`str`): The word.
        share (`float`): Its share of all the photo's coefficients, from 0 to 1.
        place (`str`): Where it is: one of nine places such as `"upper left"` and `"centre"`, or `"throughout"`.
    """

    word: str
    share: float
    place: str


def place_words(words: NamedNumbers, names: list[str], coefficients: torch.Tensor) -> list[PlacedWord]:
    """
    Words of a photo, each with its place.

    Args:
        words (`list[tuple[str, float]]`): The words with their shares.
        names (`list[str]`): The V words, as [`~modeling_langbridge.reading.patch_words.name_words`] writes them.
        coefficients (`torch.Tensor` of shape `(rows, columns, V)`): Each patch's.
    """
    places = {word: coefficients[..., names.index(word)].abs() for word, _ in words}
    return [PlacedWord(word, share, name_place(places[word])) for word, share in words]


def name_place(strengths: torch.Tensor) -> str:
    """
    The place where most of a word is.

    Args:
        strengths (`torch.Tensor` of shape `(rows, columns)`): How strong the word is in each patch, at least 0.
    """
    upright = find_third(strengths.sum(1), ("upper", "middle", "lower"))
    across = find_third(strengths.sum(0), ("left", "middle", "right"))
    if (upright, across) in NAMES:
        return NAMES[upright, across]
    return ALONE.get(upright) or ALONE.get(across) or ANYWHERE


def find_third(strengths: torch.Tensor, names: tuple[str, str, str]) -> str | None:
    """The third of a line of patches `(patches,)` that has most of the strength, if one has; patches may be cut."""
    number = len(strengths)
    edges = torch.arange(4) * number / 3
    cells = torch.arange(number)
    overlaps = torch.minimum(cells + 1, edges[1:, None]) - torch.maximum(cells, edges[:-1, None])  # (3, patches)
    shares = overlaps.clamp(min=0) @ strengths.float() / strengths.sum().clamp(min=1e-30)  # (3,)
    return names[shares.argmax()] if shares.max() >= MOST else None

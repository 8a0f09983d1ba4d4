# SPDX-License-Identifier: Apache-2.0
"""The words of an English caption that say what the picture shows, and those of them that a vocabulary has."""

import re
from collections.abc import Iterable
from typing import Any

import torch

from modeling_langbridge import SharedVocabulary

from .samples import text_of


# Words that say nothing about what a picture shows.
STOP_WORDS = frozenset(
    "a an the and or of in on at to for from with by near into over up down out off through as is are be being been "
    "was were has have his her its their it he she they them that this there who which while some".split()
)


def content_words(caption: str) -> list[str]:
    """The words of a caption that say what the picture shows: in lower case, each once, in the caption's order."""
    words = "".join(letter if letter.isalnum() else " " for letter in caption.lower()).split()
    return [word for word in dict.fromkeys(words) if word not in STOP_WORDS]


class CaptionWords:
    """
    Finds the shared words among a caption's [`content_words`].

    A shared word is a surface of lower-case letters with a space before it, such as " dog": pieces of words and
    punctuation are none.

    Args:
        vocabulary (`SharedVocabulary`): the words that the coefficients run over.
    """

    def __init__(self, vocabulary: SharedVocabulary):
        self.size = len(vocabulary)
        self.positions = {
            surface[1:]: position
            for position, surface in enumerate(vocabulary.surfaces)
            if re.fullmatch(r" [^\W\d_]+", surface) and surface.islower() and surface[1:] not in STOP_WORDS
        }

    def find(self, caption: str) -> list[int]:
        """The positions in the vocabulary of the caption's words, each once, in the caption's order."""
        return [self.positions[word] for word in content_words(caption) if word in self.positions]

    def count(self, captions: Iterable[str]) -> torch.Tensor:
        """How many of the captions use each word, `(V,)`; 0 for surfaces that are no words."""
        counts = torch.zeros(self.size)
        for caption in captions:
            counts[self.find(caption)] += 1
        return counts


def caption_of(sample: dict[str, Any]) -> str:
    """Everything that the assistant says in a sample."""
    return " ".join(text_of(message) for message in sample["messages"] if message["role"] == "assistant")

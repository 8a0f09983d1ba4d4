# SPDX-License-Identifier: Apache-2.0
"""The words of a sentence as they are spoken, and those of them that language models share."""

import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from modeling_langbridge import SharedVocabulary


def spoken_words(sentence: str) -> list[str]:
    """All words of a sentence in their order, in lower case. Function words belong to them: order matters."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", sentence.lower())


def share_words(
    tokenizers: Iterable[PreTrainedTokenizerBase], sentences: Sequence[str], size: int
) -> SharedVocabulary:
    """The words that sentences use most among those that every tokenizer has as single tokens, such as " dog"."""
    texts = [" ".join(["", *spoken_words(sentence)]) for sentence in sentences]
    shared = SharedVocabulary.build(tokenizers, texts)
    return SharedVocabulary(surface for surface in shared.surfaces if re.fullmatch(" [a-z]+", surface)).first(size)


class SharedWords:
    """
    The spoken words that a vocabulary has.

    Args:
        vocabulary ([`SharedVocabulary`]): The words that the coefficients run over.
    """

    def __init__(self, vocabulary: SharedVocabulary):
        self.words = [surface.strip() for surface in vocabulary.surfaces]
        self.positions = {word: position for position, word in enumerate(self.words)}

    def find(self, sentence: str) -> list[int]:
        """The positions in the vocabulary of a sentence's words, in their order; repeated words are kept."""
        return [self.positions[word] for word in spoken_words(sentence) if word in self.positions]

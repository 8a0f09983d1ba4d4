# SPDX-License-Identifier: Apache-2.0
"""Word assignment: an image's coefficients, pooled over its patches, predict the words of its caption.

The objective that grounds an adapter. It needs no language model: the coefficients run over words, and the words of a
caption are known.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from transformers.utils import logging

from modeling_langbridge import SharedVocabulary

from .content_words import STOP_WORDS
from .samples import read_sample, text_of


@dataclass
class WordAssignmentArguments:
    """What the objective weighs, the same in the grounding stage and beside the caption loss."""

    entropy_weight: float = field(
        default=0.0,
        metadata={"help": "In word assignment, weight of the patches' entropy: the more, the fewer words a patch."},
    )
    frequency_power: float = field(
        default=0.0,
        metadata={"help": "In word assignment, how much less frequent words count: 0 alike, 1 by inverse use."},
    )


class CaptionWords:
    """
    Finds the shared words that a caption uses.

    A word is a surface of letters with a space before it, such as " dog"; pieces of words and punctuation are none,
    nor are words that say nothing about what a picture shows, such as " the", whose patches nobody could read.
    Captions are compared in lower case, so that the first word of a sentence counts as well.

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
        """The positions in the vocabulary of the caption's words, each once, in no particular order."""
        words = re.findall(r"\w+", caption.lower())
        return list({self.positions[word] for word in words if word in self.positions})

    def count(self, captions: Iterable[str]) -> torch.Tensor:
        """How many of the captions use each word, `(V,)`; 0 for surfaces that are no words."""
        counts = torch.zeros(self.size)
        for caption in captions:
            counts[self.find(caption)] += 1
        return counts


def caption_of(sample: dict[str, Any]) -> str:
    """Everything that the assistant says in a sample."""
    return " ".join(text_of(message) for message in sample["messages"] if message["role"] == "assistant")


def word_weights(counts: torch.Tensor, power: float = 0.0) -> torch.Tensor:
    """
    Weights that let frequent words count less: the inverse of how many captions use a word, to a power.

    Args:
        counts (`torch.Tensor` of shape `(V,)`): what [`CaptionWords.count`] gives.
        power (`float`, *optional*, defaults to 0.0): 0 lets every word count alike, 1 every use of any word.

    Returns:
        `torch.Tensor` of shape `(V,)`, 0 for words that are never used.
    """
    return torch.where(counts > 0, counts.clamp(min=1) ** -power, 0)


def weigh_words(words: CaptionWords, dataset: Dataset, power: float) -> torch.Tensor:
    """
    The weights `(V,)` of the words, by how many of a dataset's captions use them.

    Raises:
        `ValueError`: no caption uses any.
    """
    rows = logging.tqdm(dataset, desc="counting words", unit=" captions", delay=2)
    counts = words.count(caption_of(read_sample(row)) for row in rows)
    if not counts.any():
        raise ValueError("No caption has a word of the vocabulary: was it made for another language?")
    return word_weights(counts, power)


def word_targets(found: list[list[int]], weights: torch.Tensor) -> torch.Tensor:
    """
    What an image's pooled coefficients are to be: its caption's words by their weights.

    Args:
        found (`list[list[int]]`):
            For each image, its caption's words as [`CaptionWords.find`] gives them, or those of several captions.
        weights (`torch.Tensor` of shape `(V,)`): from [`word_weights`].

    Returns:
        `torch.Tensor` of shape `(images, V)`: each row sums to 1, or to 0 where the caption has no shared word.
    """
    targets = weights.new_zeros(len(found), len(weights))  # (images, V)
    for row, positions in zip(targets, found, strict=True):
        row.index_add_(0, torch.tensor(positions, dtype=torch.long), weights[positions])
    return targets / targets.sum(-1, keepdim=True).clamp(min=torch.finfo(targets.dtype).tiny)


def has_words(targets: torch.Tensor) -> torch.Tensor:
    """Which images `(images,)` have a caption with a shared word."""
    return targets.sum(-1) > 0


def word_assignment_loss(pooled: torch.Tensor, targets: torch.Tensor, num_images: int | None = None) -> torch.Tensor:
    """
    Cross-entropy between captions' words and pooled coefficients, in nats, mean over images whose caption has a word.

    Args:
        pooled (`torch.Tensor` of shape `(images, V)`): from the vocabulary head's `pool`.
        targets (`torch.Tensor` of shape `(images, V)`): from [`word_targets`].
        num_images (`int`, *optional*): how many images to take the mean over, where these are a part of a step's;
            those among them whose caption has a word when left out.

    Returns:
        `torch.Tensor` of shape `()`; 0 where no caption has a word.
    """
    num_images = int(has_words(targets).sum()) if num_images is None else num_images
    log_pooled = pooled.clamp(min=torch.finfo(pooled.dtype).tiny).log()
    return -(targets * log_pooled).sum() / max(num_images, 1)

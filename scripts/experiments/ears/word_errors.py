# SPDX-License-Identifier: Apache-2.0
"""Word errors: how many words must be replaced, left out or put in to make one sentence of another."""

from collections.abc import Hashable, Sequence

import torch
from rapidfuzz.distance import Levenshtein

from trainer.evaluation.intervals import Measure, ratio


def word_error_rate(heard: Sequence[Sequence[Hashable]], said: Sequence[Sequence[Hashable]]) -> Measure:
    """The Levenshtein distance in words over all sentences, divided by the number of words that were said."""
    rows = [[Levenshtein.distance(*pair), len(pair[1])] for pair in zip(heard, said, strict=True)]
    return Measure(torch.tensor(rows, dtype=torch.float64), ratio)

# SPDX-License-Identifier: Apache-2.0
"""Word errors: how many words must be replaced, left out or put in to make one sentence of another."""

from collections.abc import Hashable, Sequence

import torch

from trainer.evaluation.intervals import Measure, ratio


def count_errors(heard: Sequence[Hashable], said: Sequence[Hashable]) -> int:
    """The Levenshtein distance in words, which the word error rate divides by the number of words that were said."""
    above = list(range(len(said) + 1))
    for row, word in enumerate(heard, start=1):
        line = [row]
        for column, other in enumerate(said, start=1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (word != other)))
        above = line
    return above[-1]


def word_error_rate(heard: Sequence[Sequence[Hashable]], said: Sequence[Sequence[Hashable]]) -> Measure:
    """The errors in all sentences together, divided by the number of words that were said."""
    rows = [[count_errors(*pair), len(pair[1])] for pair in zip(heard, said, strict=True)]
    return Measure(torch.tensor(rows, dtype=torch.float64), ratio)

# SPDX-License-Identifier: Apache-2.0
"""Answers to yes/no questions as POPE counts them: accuracy, precision, recall and F1 of "yes", and its share."""

import re
from collections.abc import Sequence

import numpy as np
import torch

from .intervals import Measure, ratio


def says_yes(answer: str) -> bool:
    """POPE's rule: an answer whose first sentence has the word "no" or "not" is a no, any other is a yes."""
    words = answer.partition(".")[0].replace(",", "").lower().split()
    return "no" not in words and "not" not in words


def measure_yes_no(answers: Sequence[str], labels: Sequence[str]) -> dict[str, Measure]:
    """
    Measures answers to yes/no questions.

    Args:
        answers (`Sequence[str]`): the model's.
        labels (`Sequence[str]`): `"yes"` or `"no"` for each.

    Returns:
        `dict[str, Measure]`: `"accuracy"`, `"precision"`, `"recall"` and `"F1"` of yes, the `"yes share"`, and the
        share that has neither yes nor no in it (`"unclear"`), which POPE's rule takes for yes or no all the same.
    """
    yes = torch.tensor([says_yes(answer) for answer in answers])
    true = torch.tensor([label == "yes" for label in labels])
    unclear = torch.tensor([not re.search(r"\b(yes|no|not)\b", answer.lower()) for answer in answers])
    everything = torch.ones_like(yes)

    def measure(combine, *columns: torch.Tensor) -> Measure:
        return Measure(torch.stack(columns, 1).double(), combine)

    return {
        "accuracy": measure(ratio, yes == true, everything),
        "precision": measure(ratio, yes & true, yes),
        "recall": measure(ratio, yes & true, true),
        "F1": measure(f1, yes & true, yes, true),
        "yes share": measure(ratio, yes, everything),
        "unclear": measure(ratio, unclear, everything),
    }


def f1(hits: np.ndarray, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    return ratio(2 * hits, found + true)

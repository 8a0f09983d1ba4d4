# SPDX-License-Identifier: Apache-2.0
"""Shares, means and ratios with 95 % intervals, by bootstrap over images: what is of one image is not independent."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor


Combine = Callable[..., np.ndarray]
RESAMPLES, PERMUTATIONS, AT_ONCE = 2000, 9999, 200


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Measure(NamedTuple):
    """
    A number that is made of sums over images: a mean, a ratio such as precision, or a score of a corpus such as BLEU.

    Args:
        statistics (`torch.Tensor` of shape `(images, m)`): what is added up over the images.
        combine (`Callable`): makes the number of the m sums, also of many draws at a time, `(draws,)` each.
    """

    statistics: Tensor
    combine: Combine

    def value(self) -> float:
        """The number, of all images together."""
        return float(self.combine(*self.columns().sum(1)))

    def columns(self) -> np.ndarray:
        return self.statistics.double().numpy().T  # (m, images)

    def estimate(self) -> Estimate:
        """
        The number, and its percentile interval over 2,000 draws of images, always the same ones.

        Raises:
            `ValueError`: there are fewer than two images.
        """
        return bootstrap(self.value(), self.columns(), self.combine)

    def minus(self, other: "Measure") -> Estimate:
        """
        How much larger this number is than another of the same images. The interval is of the difference: the same
        images are drawn for both.

        Raises:
            `ValueError`: there are fewer than two images.
        """
        m = self.statistics.shape[1]
        columns = np.concatenate([self.columns(), other.columns()])

        def difference(*sums: np.ndarray) -> np.ndarray:
            return self.combine(*sums[:m]) - other.combine(*sums[m:])

        return bootstrap(self.value() - other.value(), columns, difference)

    def p_value(self, other: "Measure") -> float:
        """
        How often a difference from another number of the same images is at least as large where each image's two
        results change places at random: a paired permutation test, two-sided. Of 0 and 1, one an image, it is
        McNemar's exact test, by 9,999 random exchanges where there are more than 13 images.
        """
        images = len(self.statistics)
        both = np.concatenate([self.columns(), other.columns()], axis=1)  # (m, 2 images)

        def difference(one: np.ndarray, two: np.ndarray, axis: int) -> np.ndarray:
            found = [self.combine(*both[:, chosen.astype(int)].sum(axis)) for chosen in (one, two)]
            return found[0] - found[1]

        return float(
            stats.permutation_test(
                (np.arange(images), np.arange(images) + images),
                difference,
                permutation_type="samples",
                vectorized=True,
                n_resamples=PERMUTATIONS,
                batch=AT_ONCE,
                axis=-1,
                rng=0,
            ).pvalue
        )


def bootstrap(value: float, columns: np.ndarray, combine: Combine) -> Estimate:
    if columns.shape[1] < 2:
        raise ValueError(
            f"An interval needs at least two images with something to count: there are {columns.shape[1]}."
        )
    interval = stats.bootstrap(
        tuple(columns),
        lambda *drawn, axis: combine(*(column.sum(axis) for column in drawn)),
        n_resamples=RESAMPLES,
        batch=AT_ONCE,
        vectorized=True,
        paired=True,
        method="percentile",
        rng=0,
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below`, and 0 where there is nothing below, as of a precision where nothing was found."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def mean_of(scores: Tensor) -> Measure:
    """The mean of one score per image, `(images,)`."""
    return Measure(torch.stack([scores.double(), torch.ones(len(scores)).double()], 1), ratio)


def estimate(sums: Tensor, counts: Tensor) -> Estimate:
    """
    The mean over all that was counted, such as patches or tokens, of all images together.

    Args:
        sums (`torch.Tensor` of shape `(images,)`): what was found in each image, such as hits or nats.
        counts (`torch.Tensor` of shape `(images,)`): in how many patches or tokens.

    Returns:
        [`Estimate`]: `sums.sum() / counts.sum()`, and its percentile interval over 2,000 draws of images, always the
        same ones.

    Raises:
        `ValueError`: there are fewer than two images, or nothing was counted.
    """
    if not counts.any():
        raise ValueError("An interval needs at least two images with something to count: there are 0.")
    return Measure(torch.stack([sums.double(), counts.double()], 1), ratio).estimate()

# SPDX-License-Identifier: Apache-2.0
"""Shares and means with 95 % intervals, by bootstrap over images: what is of one image is not independent."""

from typing import NamedTuple

from scipy import stats
from torch import Tensor


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


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
    if len(sums) < 2 or not counts.any():
        raise ValueError(f"An interval needs at least two images with something to count: there are {len(sums)}.")
    interval = stats.bootstrap(
        (sums.double().numpy(), counts.double().numpy()),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        n_resamples=2000,
        vectorized=True,
        paired=True,
        method="percentile",
        rng=0,
    ).confidence_interval
    return Estimate((sums.double().sum() / counts.sum()).item(), float(interval.low), float(interval.high))

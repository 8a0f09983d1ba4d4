# SPDX-License-Identifier: Apache-2.0
"""Measures how long modules' forward passes take, apart from what is done around them."""

from collections.abc import Iterable
from time import perf_counter

import torch
from torch import nn


class ForwardClock:
    """
    Adds up the time of every forward pass from now on.

    Args:
        modules (`Iterable[nn.Module]`): Modules of which none runs inside another.

    Attributes:
        seconds (`float`): Of all passes so far that came to an end; a GPU's work is waited for.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self.seconds = self.started = 0.0
        for module in modules:
            module.register_forward_pre_hook(self.start)
            module.register_forward_hook(self.stop)

    def start(self, *_: object) -> None:
        self.started = now()

    def stop(self, *_: object) -> None:
        self.seconds += now() - self.started


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()

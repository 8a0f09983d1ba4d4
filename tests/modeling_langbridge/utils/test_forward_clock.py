# SPDX-License-Identifier: Apache-2.0
"""The clock counts what runs inside its modules, and nothing else."""

import time

import pytest
from torch import nn

from modeling_langbridge.utils.forward_clock import ForwardClock


class Sleep(nn.Module):
    def forward(self, seconds: float) -> None:
        time.sleep(seconds)


def test_forward_passes_are_added_up_and_the_time_between_is_not():
    first, second = Sleep(), Sleep()
    clock = ForwardClock([first, second])
    first(0.05)
    time.sleep(0.2)
    second(0.1)
    assert clock.seconds == pytest.approx(0.15, abs=0.04)

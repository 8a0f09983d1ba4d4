# SPDX-License-Identifier: Apache-2.0
"""A profile's time of matrix products is told apart by their precision, and is of nothing else."""

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.benchmarks.product_time import product_time


def profiled(work) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        work()
    return product_time(found.events(), on_gpu=False)


def test_products_are_told_apart_by_their_inputs():
    weight, low = torch.randn(64, 64, requires_grad=True), torch.randn(64, 64, dtype=torch.bfloat16)

    def work():
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.functional.linear(torch.randn(8, 64), weight, torch.randn(64))
        (torch.randn(8, 64) @ weight).sum().backward()
        low @ low

    times = profiled(work)
    assert set(times) == {"float", "c10::BFloat16"}
    assert min(times.values()) > 0


def test_what_is_no_product_does_not_count():
    assert not profiled(lambda: torch.randn(64, 64).softmax(-1).sum())

# SPDX-License-Identifier: Apache-2.0
"""The time of matrix products by the precision that they are computed in, from a profile."""

from collections import Counter
from collections.abc import Iterable
from operator import attrgetter

from torch.autograd.profiler_util import FunctionEvent

from trainer.planning.counted_products import FORMULAS


PRODUCTS = {f"aten::{product.__name__}" for product in FORMULAS}


def product_time(events: Iterable[FunctionEvent], on_gpu: bool) -> Counter[str]:
    """
    The microseconds of matrix products, convolutions and attention by their inputs' dtype, as the profiler names it:
    `float` or `c10::BFloat16`. Products in TF32 are `float`.

    Args:
        events (`Iterable[FunctionEvent]`): of a profile with `record_shapes=True`.
        on_gpu (`bool`): whether the GPU's time is summed, or the CPU's.
    """
    seconds_of = attrgetter("self_device_time_total" if on_gpu else "self_cpu_time_total")
    found: Counter[str] = Counter()
    for event in events:
        if event.name in PRODUCTS:
            # The second tensor: the first of `addmm` is what is added to.
            found[event.input_dtypes[1]] += seconds_of(event)
    return found

# SPDX-License-Identifier: Apache-2.0
"""The matrix products of a computation: their multiply-adds, by the precision that they are computed in."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def attention_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **options: Any
) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


aten = torch.ops.aten
FORMULAS = {
    **flop_registry,
    # What torch's table lacks.
    aten.addmm_: flop_registry[aten.addmm],
    aten._scaled_dot_product_flash_attention_for_cpu: attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


class CountedProducts(TorchDispatchMode):
    """
    Counts the multiply-adds of matrix products, convolutions and attention by their inputs' dtype, whatever the
    machine and its speed. The formulas are those of torch's `FlopCounterMode`, which does not tell dtypes apart.
    """

    def __init__(self):
        super().__init__()
        self.multiply_adds: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            # The second tensor: the first of `addmm` is what is added to.
            dtype = [argument for argument in args if isinstance(argument, torch.Tensor)][1].dtype
            self.multiply_adds[dtype] += formula(*args, **kwargs, out_val=result) // 2
        return result

    def share(self, dtype: torch.dtype) -> float:
        """The share of the multiply-adds that are computed in one dtype, 0 to 1."""
        return self.multiply_adds[dtype] / max(1, sum(self.multiply_adds.values()))

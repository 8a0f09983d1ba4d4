# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of products, by the dtype that they are computed in."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainer.planning.counted_products import CountedProducts


def count(function) -> dict[torch.dtype, int]:
    with CountedProducts() as products:
        function()
    return dict(products.multiply_adds)


def test_a_layer_multiplies_once_forward_and_twice_backward():
    inputs = torch.zeros(4, 8, requires_grad=True)
    assert count(lambda: nn.Linear(8, 3)(inputs).sum().backward()) == {torch.float32: 3 * 4 * 8 * 3}


def test_autocast_multiplies_in_its_own_dtype():
    layer, inputs = nn.Linear(8, 3), torch.zeros(4, 8)

    def forward():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(inputs)

    assert count(forward) == {torch.bfloat16: 4 * 8 * 3}


def test_the_share_of_a_dtype():
    with CountedProducts() as products:
        for dtype in (torch.float32, torch.float32, torch.float32, torch.bfloat16):
            torch.zeros(2, 2, dtype=dtype) @ torch.zeros(2, 2, dtype=dtype)
    assert products.share(torch.float32) == 0.75
    assert CountedProducts().share(torch.float32) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_on_the_cpu_is_counted(dtype):
    query = torch.zeros(1, 2, 16, 8, dtype=dtype, requires_grad=True)
    # Two products forward; backward five: those of the scores and of four gradients.
    expected = 7 * 2 * 16 * 16 * 8
    assert count(lambda: F.scaled_dot_product_attention(query, query, query).sum().backward()) == {dtype: expected}


def test_products_in_place_and_into_a_tensor_are_counted():
    left, right, total = torch.zeros(4, 8), torch.zeros(8, 3), torch.zeros(4, 3)
    assert count(lambda: total.addmm_(left, right)) == {torch.float32: 4 * 8 * 3}
    assert count(lambda: torch.mm(left, right, out=total)) == {torch.float32: 4 * 8 * 3}


def test_a_convolution_is_counted():
    inputs = torch.zeros(1, 3, 8, 8)
    assert count(lambda: nn.Conv2d(3, 4, 2, 2)(inputs)) == {torch.float32: 4 * 4 * 4 * 3 * 2 * 2}

# SPDX-License-Identifier: Apache-2.0
"""The memory of tensors: what lives, what it is for, and the most of it."""

import gc

import torch
from torch.utils.checkpoint import checkpoint

from trainer.planning.live_memory import COPIES, WEIGHTS, LiveMemory


KB = torch.empty(256)  # 1,024 bytes


def test_the_peak_is_what_lived_at_once():
    with LiveMemory() as memory:
        first = torch.zeros_like(KB)
        second = first + 1
        del first
        third = second + 1
        del second
    assert memory.most == 2 * KB.nbytes
    assert memory.total == KB.nbytes == third.nbytes


def test_a_storage_is_counted_once_however_many_tensors_see_it():
    with LiveMemory() as memory:
        whole = torch.zeros_like(KB)
        views = whole.view(2, 128), whole[3:], whole.detach(), whole.add_(1)
    assert memory.total == KB.nbytes == views[0].nbytes


def test_tensors_are_of_the_kind_that_was_current():
    with LiveMemory() as memory:
        with memory.counting("a"):
            kept = torch.zeros_like(KB)
        with memory.counting("b"):
            other = torch.cat([kept, kept])
    assert memory.peak == {"a": KB.nbytes, "b": 2 * KB.nbytes} and len(other) == 512


def test_what_a_tensor_is_for_can_be_said_later_and_it_goes_as_that():
    with LiveMemory() as memory:
        tensor = torch.zeros_like(KB)
        memory.track([tensor], "gradients")
        assert +memory.live == {"gradients": KB.nbytes}
        del tensor
    assert memory.total == 0 and not +memory.live


def test_a_weight_that_autocast_casts_is_a_copy():
    layer = torch.nn.Linear(16, 16, bias=False).requires_grad_(False)
    memory = LiveMemory()
    memory.track(layer.parameters(), WEIGHTS)
    with memory, torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.zeros(1, 16, requires_grad=True))
    assert memory.peak[WEIGHTS] == 16 * 16 * 4
    assert memory.peak[COPIES] == 16 * 16 * 2


def peak_of_step(function) -> int:
    gc.collect()
    start = torch.zeros(64, 64, requires_grad=True)
    memory = LiveMemory()
    with memory:
        function(start).sum().backward()
    return memory.most


def piece(x: torch.Tensor) -> torch.Tensor:
    return x.sin().exp().sin().exp().sin().exp()


def test_checkpointing_is_seen_to_keep_less():
    whole = peak_of_step(lambda x: piece(piece(piece(piece(x)))))

    def in_pieces(x):
        for _ in range(4):
            x = checkpoint(piece, x, use_reentrant=False)
        return x

    assert peak_of_step(in_pieces) < 0.6 * whole

# SPDX-License-Identifier: Apache-2.0
"""The memory that tensors hold at each moment of a computation, by what they are for, and its peak."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


WEIGHTS, COPIES = "weights", "weights cast anew"


@dataclass
class Storage:
    """What is known of a storage."""

    kind: str
    size: int  # bytes
    end: weakref.ref | None = None  # says when it goes


class LiveMemory(TorchDispatchMode):
    """
    Counts the bytes of all tensors that live while it is active, and keeps the moment when they were most.

    It sees every tensor that an operation makes, real or fake, and when its last reference goes: what is kept for the
    backward pass, what checkpointing drops and makes again, the copies that autocast makes. It does not see what a
    kernel allocates and frees by itself. (torch's own `MemTracker`, which does the same, fails on frozen parameters.)

    A storage is counted once, under the kind that was current when it was made, or that `track` says later.
    """

    def __init__(self):
        super().__init__()
        self.kind = "other"
        self.live: Counter[str] = Counter()  # bytes by kind
        self.peak: Counter[str] = Counter()  # likewise, when their sum was largest
        self.total = self.most = 0
        self.storages = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        casts_weight = func is torch.ops.aten._to_copy.default and self.kind_of(args[0]) == WEIGHTS
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and self.kind_of(tensor) is None:
                self.add(tensor.untyped_storage(), COPIES if casts_weight else self.kind)
        return result

    def kind_of(self, tensor: torch.Tensor) -> str | None:
        """What a tensor's memory is for, `None` where it is not counted."""
        known = self.storages.get(tensor.untyped_storage())
        return known and known.kind

    def add(self, storage: torch.UntypedStorage, kind: str) -> None:
        known = self.storages[storage] = Storage(kind, storage.nbytes())
        known.end = weakref.ref(storage, lambda _: self.change(known.kind, -known.size))
        self.change(kind, known.size)

    def change(self, kind: str, size: int) -> None:
        self.live[kind] += size
        self.total += size
        if self.total > self.most:
            self.keep_peak()

    def keep_peak(self) -> None:
        """The peak is now, whatever was before."""
        self.most, self.peak = self.total, Counter(self.live)

    def track(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Counts tensors that were made before, or says what those that are counted are for."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            known = self.storages.get(storage)
            if known is None:
                self.add(storage, kind)
            else:
                self.live[known.kind] -= known.size
                self.live[kind] += known.size
                known.kind = kind

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """What is made meanwhile is of this kind."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

# SPDX-License-Identifier: Apache-2.0
"""Ways of doing the same thing, timed in turn, and what they compute and move."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import trange

from trainer.planning.counted_products import CountedProducts
from trainer.planning.live_memory import LiveMemory


PRODUCT, PRODUCT_SIZE = "product", 2048


@dataclass
class Timing:
    """The seconds of one way, of each round: by the clock, and what is compared (see `measure`)."""

    seconds: list[float] = field(default_factory=list)
    compared: list[float] = field(default_factory=list)

    def drop_first_round(self) -> None:
        del self.seconds[0], self.compared[0]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio_to(self, first: "Timing") -> float:
        """The median of the rounds' ratios: what disturbs a round disturbs both."""
        return statistics.median(one / other for one, other in zip(self.compared, first.compared, strict=True))


def measure(ways: dict[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, Timing]:
    """
    Times ways of doing the same thing, each once in a round, after a round that does not count.

    What is compared is the time by the clock on a GPU, and on a CPU the time that was computed, over all threads and
    processes, which other work on the machine disturbs less.
    """
    timings = {name: Timing() for name in ways}
    for number in trange(rounds + 1, leave=False, desc="rounds"):
        for name, way in ways.items():
            watch = Stopwatch(device)
            way()
            if number:
                watch.read(timings[name])
    return timings


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self, device: str):
        self.device = device
        synchronize(device)
        self.start, self.start_computing = time.perf_counter(), computing_time()

    def read(self, timing: Timing) -> None:
        """Adds the time since to a timing."""
        synchronize(self.device)
        seconds, computing = time.perf_counter() - self.start, computing_time() - self.start_computing
        timing.seconds.append(seconds)
        timing.compared.append(computing if self.device == "cpu" else seconds)


def computing_time() -> float:
    """The seconds that this process and those that it has waited for have computed, over all threads."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, and the elements of the largest tensor that one makes."""

    def __init__(self):
        super().__init__()
        self.bytes = self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        read, made = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)] for tree in ((args, kwargs), result)
        )
        if not function.is_view:
            self.bytes += sum(tensor.nbytes for tensor in (*read, *made))
            self.largest = max([self.largest, *(tensor.numel() for tensor in made)])
        return result


@dataclass
class Work:
    """What a way computes and moves."""

    multiply_adds: int  # of matrix products, convolutions and attention
    bytes: int  # read and written by all operations
    largest: int  # elements of the largest tensor that an operation makes
    peak: int  # bytes of the tensors that it makes that live at once


def count_work(way: Callable[[], object]) -> Work:
    with CountedProducts() as products, Traffic() as traffic, LiveMemory() as memory:
        way()
    return Work(products.multiply_adds.total(), traffic.bytes, traffic.largest, memory.most)


def with_product(ways: dict[str, Callable], dtype: torch.dtype, device: str) -> dict[str, Callable]:
    """The ways and, last, the machine's own product of two square matrices, whose speed is taken for its peak."""
    left, right = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, dtype=dtype, device=device) for _ in range(2))
    return {**ways, PRODUCT: lambda: left @ right}

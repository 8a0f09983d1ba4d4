# SPDX-License-Identifier: Apache-2.0
"""How fast training is and what it waits for: images and answer tokens a second, waiting for data, peak memory."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from transformers import TrainerCallback


class Throughput(TrainerCallback):
    """
    Counts what a training run processes. Saving, evaluation and captioning between the steps are left out.

    The trainer calls `count` for each batch and puts `waiting_for_data` around its fetching; the callback's
    events say when steps begin and end.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.images = self.answer_tokens = 0
        self.waiting = self.working = 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - began

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.working += time.perf_counter() - self.step_began

    def count(self, inputs: dict) -> None:
        """Counts a batch: the images of `pixel_values` and the targets of `labels`."""
        self.images += len(inputs["pixel_values"])
        self.answer_tokens += int((inputs["labels"][:, 1:] != -100).sum())

    def summarize(self, accelerator: Accelerator) -> dict[str, float]:
        """
        What was counted since the last call, over all processes; every process must call it.

        Returns:
            `dict` with `images_per_second`, `answer_tokens_per_second`, `data_wait_share` (of the time, 0 to 1, in the
            process that waited longest) and `peak_memory_gb` (GiB: of the GPU, or resident without one; of the largest
            process), or nothing where no step was made.
        """
        seconds = self.waiting + self.working
        counts = torch.tensor(
            [self.images, self.answer_tokens, seconds, self.waiting, peak_memory()],
            dtype=torch.float32,
            device=accelerator.device,
        )
        counts = accelerator.gather(counts).view(-1, len(counts))  # (processes, 5)
        self.reset()
        images, answer_tokens = counts[:, :2].sum(0).tolist()
        longest, waiting, memory = counts[:, 2:].amax(0).tolist()
        if longest == 0:
            return {}
        return {
            "images_per_second": images / longest,
            "answer_tokens_per_second": answer_tokens / longest,
            "data_wait_share": waiting / longest,
            "peak_memory_gb": memory,
        }


def peak_memory() -> float:
    """The most memory that this process has held, in GiB: of its GPU where it has one, resident otherwise."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

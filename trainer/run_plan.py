# SPDX-License-Identifier: Apache-2.0
"""What a run says of itself: where it computes, how many steps it makes, and how long they take."""

import logging
import time
from datetime import timedelta

from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainingArguments

from .data.packing import PackedDataset
from .device import describe_device


logger = logging.getLogger(__name__)

TIMED_STEPS = 5


def begin_log(options: TrainingArguments) -> None:
    """Lets one process of a script say what it does, and the others what goes wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("trainer").setLevel(logging.INFO if options.process_index == 0 else logging.WARNING)
    logger.info(describe_device(options))


class RunPlan(TrainerCallback):
    """Says the numbers of samples and steps before the first step, and after a few how long all of them take."""

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        samples = train_dataloader.dataset
        begun = f", of which {state.global_step:,} are made" if state.global_step else ""
        if isinstance(samples, PackedDataset):
            number, size = f"{len(samples.samples):,} samples in {len(samples):,} bins", f"{batch} bins"
        else:
            number, size = "a stream of" if isinstance(samples, IterableDataset) else f"{len(samples):,}", f"{batch}"
            number = f"{number} samples"
        logger.info(f"Trains on {number}: {state.max_steps:,} steps of {size}{begun}.")
        self.first_step, self.began = state.global_step, time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        made = state.global_step - self.first_step
        if made == 1:  # which also fills caches
            self.began = time.perf_counter()
        if made == TIMED_STEPS:
            seconds = (time.perf_counter() - self.began) / (TIMED_STEPS - 1)
            left = timedelta(seconds=round(seconds * (state.max_steps - state.global_step)))
            logger.info(f"A step takes {seconds:.2g} seconds: about {left} (hours:minutes:seconds) are left.")

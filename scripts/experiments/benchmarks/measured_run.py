# SPDX-License-Identifier: Apache-2.0
"""A few real training steps in a process of their own: memory, tokens a second, and what is multiplied in which dtype.

Run by `measure`, with the options of train.py.
"""

import gc
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile
from transformers import Trainer, TrainerCallback, set_seed

from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, load_training_data
from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder
from trainer.data_arguments import DataArguments
from trainer.model_loading import ModelArguments, load_model
from trainer.parts import keep_trained_in_float32, prepare_parts
from trainer.planning.counted_products import CountedProducts
from trainer.recipes import RecipeParser

from .held_memory import forget_peak, held, peak, take_out_of_files
from .product_time import product_time


UNTIMED_STEPS = 2  # the first ones, which fill caches
Options = dict[str, Any]


def measure(options: Options, warm_up: Options, device: str, plain: bool = False) -> dict[str, Any]:
    """
    Trains for `max_steps`, four at least, in a fresh process.

    Args:
        options (`dict`): of train.py, by name.
        warm_up (`dict`): those that differ in a training before it, of a tiny model: it brings what any training
            brings, libraries, tokenizer and kernels, so that it is not taken for the model's.
        device (`str`): `cpu` or `cuda`.
        plain (`bool`, *optional*, defaults to `False`): by transformers' own Trainer, which computes all logits.

    Returns:
        `dict` with `memory` (bytes at the peak, beyond what the process holds before it makes the model), `tokens` a
        second of `clock`, padding left out, over all steps but the first two and the last, and of the last
        `multiply_adds` by dtype and, on a GPU, `product_time` (see there).

    Raises:
        `ValueError`: the training ends with an error, whose text is in the message.
    """
    asked = {"trained": options, "warm_up": {**options, **warm_up}, "plain": plain}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        # Tensors that go are given back to the system at once, so that what is resident is what is in use.
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "MALLOC_TRIM_THRESHOLD_": "1048576",
        **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
    }
    command = [sys.executable, "-m", __name__, json.dumps(asked, default=str)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"Training with {' '.join(as_words(options))} failed: {result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def as_words(options: Options) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def parse(options: Options) -> tuple[ModelArguments, DataArguments, LangBridgeSFTConfig]:
    """The options as train.py reads them."""
    parser = RecipeParser((ModelArguments, DataArguments, LangBridgeSFTConfig))
    model, data, config, _ = parser.parse(as_words(options))
    return model, data, config


class Steps(TrainerCallback):
    """Times the steps, and counts and profiles the products of the last one."""

    def __init__(self):
        self.seconds: list[float] = []
        self.tokens: list[int] = []  # of every step
        self.products = CountedProducts()
        self.profile = profile(record_shapes=True) if torch.cuda.is_available() else nullcontext()

    def on_step_begin(self, args, state, control, **kwargs):
        self.tokens.append(0)
        self.is_last = state.global_step == args.max_steps - 1
        if self.is_last:
            self.profile.__enter__()
            self.products.__enter__()
        self.began = clock()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(clock() - self.began)
        if self.is_last:
            self.products.__exit__(None, None, None)
            self.profile.__exit__(None, None, None)

    def count(self, inputs: dict[str, Any]) -> None:
        packed = inputs.get("num_tokens")
        self.tokens[-1] += int(inputs["attention_mask"].sum() if packed is None else packed)

    def found(self) -> dict[str, Any]:
        timed = slice(UNTIMED_STEPS, -1)
        return {
            "tokens": sum(self.tokens[timed]) / sum(self.seconds[timed]),
            "multiply_adds": {
                f"{dtype}".removeprefix("torch."): n for dtype, n in self.products.multiply_adds.items()
            },
            "product_time": product_time(self.profile.events(), on_gpu=True) if torch.cuda.is_available() else {},
        }


def make_trainer(kind: type[Trainer], steps: Steps, *arguments: Any, **options: Any) -> Trainer:
    """A trainer that says how many tokens its batches have."""

    class Counting(kind):
        def compute_loss(self, model, inputs, *args, **kwargs):
            steps.count(inputs)
            return super().compute_loss(model, inputs, *args, **kwargs)

    return Counting(*arguments, callbacks=[steps], **options)


def train(options: Options, plain: bool) -> Steps:
    """Trains by the options of train.py; the peak of memory is counted from the first step on."""
    model_arguments, data, config = parse(options)
    set_seed(0)
    needs_folder = model_arguments.load_in_4bit or "lora" in config.modes().values()
    model, processor = load_model(model_arguments, Path(config.output_dir, "base"), needs_folder)
    dataset, steps = load_training_data(data.dataset, **data.image_options()), Steps()
    if plain:
        collate = ConversationCollator(ConversationEncoder(processor, config.plain_captions))

        def collate_for_model(rows: list[dict]) -> dict[str, torch.Tensor]:
            return {name: value for name, value in collate(rows).items() if name != "sample_ids"}

        config.remove_unused_columns = False
        prepare_parts(model, config)
        keep_trained_in_float32(model)
        trainer = make_trainer(Trainer, steps, model, config, collate_for_model, dataset)
    else:
        trainer = make_trainer(LangBridgeSFTTrainer, steps, model, config, processor, dataset)
    take_out_of_files(trainer.model)
    forget_peak()
    trainer.train()
    return steps


def run(warm_up: Options, trained: Options, plain: bool) -> dict[str, Any]:
    train(warm_up, plain)
    gc.collect()
    before = held()
    steps = train(trained, plain)
    return {"memory": peak() - before, **steps.found()}


def clock() -> float:
    """Seconds by the clock on a GPU; on a CPU those that this process has computed, which other work disturbs less."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))

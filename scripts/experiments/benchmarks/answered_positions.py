# SPDX-License-Identifier: Apache-2.0
"""A training step on a CPU whose loss sees the answered positions alone, beside TRL's, which sees all and masks most.

A step is forward and backward of a model that is trained in full but for its tower, on captions behind images of 98
pixels, 49 visual tokens. (On a GPU, TRL's own kernel sees the answered positions alone.)
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, load_training_data

from .measuring import count_work, measure
from .models import make_langbridge
from .samples import make_processor, write_samples
from .shapes import Shapes
from .tables import Table, compare


IMAGE_SIZE = 98


def answer(arguments: argparse.Namespace) -> list[Table]:
    shapes = Shapes(arguments.scale, layers=arguments.layers, image_size=IMAGE_SIZE)
    model, processor = make_langbridge(shapes, projector_hidden_size=shapes.times(896)), make_processor(shapes)
    model.config.image_token_id = processor.image_token_id
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_training_data(str(write_samples(Path(folder), rows=arguments.images)))
        options = LangBridgeSFTConfig(
            output_dir=folder,
            train_language_model="full",
            per_device_train_batch_size=arguments.images,
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
        )
        trainer = LangBridgeSFTTrainer(model, options, processor, dataset)
        batch = next(iter(trainer.get_train_dataloader()))
        everywhere = patch.object(trainer.answered_positions, "narrow", lambda inputs: None)
        steps = {
            "every position": make_step(trainer, batch, everywhere),
            "answered positions": make_step(trainer, batch, nullcontext()),
        }
        timings = measure(steps, arguments.rounds)
        work = {name: count_work(step) for name, step in steps.items()}
    targets, tokens = int((batch["labels"] != -100).sum()), batch["labels"].numel()
    title = (
        f"A step of {arguments.images} captions: {tokens} places, {targets} of them targets; d {shapes.times(896)}, "
        f"{arguments.layers} layers, {shapes.text().vocab_size:,} tokens in the vocabulary"
    )
    return [compare(title, timings, work)]


def make_step(trainer: LangBridgeSFTTrainer, batch: dict[str, Any], scored: Any) -> Callable[[], torch.Tensor]:
    def step() -> torch.Tensor:
        trainer.model.train().zero_grad()
        with scored:
            loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        return loss.detach()

    return step

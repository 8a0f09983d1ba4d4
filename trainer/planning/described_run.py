# SPDX-License-Identifier: Apache-2.0
"""A run's training step, made of its options alone."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from transformers import PreTrainedModel

from ..model_loading import ModelArguments
from ..sft_config import LangBridgeSFTConfig
from .described_model import describe_model, largest_image
from .live_memory import WEIGHTS
from .simulated_step import SimulatedTraining, StepCost


# What CUDA, its libraries and their workspaces take, and the allocator loses between blocks: assumed, not counted.
CONTEXT = 2**30  # bytes


class DescribedRun:
    """
    What [`~trainer.LangBridgeSFTTrainer`] would do with these options.

    Args:
        model ([`ModelArguments`]), config ([`LangBridgeSFTConfig`]): The options of `scripts/train.py`.
        text_tokens (`int`): Tokens of a sample beside those of its images.
        answer_tokens (`int`, *optional*): How many of them are targets; all when left out.
        images_per_sample (`int`, *optional*, defaults to 1): Images of a sample, of the size with most tokens.
        on_gpu (`bool`, *optional*, defaults to `True`): Whether it would compute on a GPU or on the CPU.

    Raises:
        `OSError`, `ValueError`: as loading the model.
    """

    def __init__(
        self,
        model: ModelArguments,
        config: LangBridgeSFTConfig,
        text_tokens: int,
        answer_tokens: int | None = None,
        images_per_sample: int = 1,
        on_gpu: bool = True,
    ):
        needs_folder = model.load_in_4bit or "lora" in config.modes().values()
        described, processor = describe_model(model, needs_folder)
        others = [*describe_others(model, described.config.bridge_vocab_size, described.dtype)]
        self.image, self.image_tokens = largest_image(described, processor)
        self.images_per_sample = images_per_sample
        self.sample_tokens = images_per_sample * self.image_tokens + text_tokens
        self.context = CONTEXT if on_gpu else 0
        self.weights = [weigh_language_model(one) for one in (described, *others)]  # bytes
        self.turns = [
            SimulatedTraining(one, config, self.make_batch, answer_tokens or text_tokens, on_gpu)
            for one in (described, *others)
        ]
        self.training = self.turns[0]
        self.cost = cache(self.step)

    def step(self, batch_size: int) -> StepCost:
        """
        What an optimizer step takes. Where several language models take turns, its memory is that of the turn which
        takes most, beside the weights of the others, and its multiply-adds are the mean of the turns'.
        """
        costs = [training.step(batch_size) for training in self.turns]
        for cost, weight in zip(costs, self.weights, strict=True):
            cost.memory[WEIGHTS] += sum(self.weights) - weight
        products = sum((cost.multiply_adds for cost in costs), Counter())
        return StepCost(
            max((cost.memory for cost in costs), key=Counter.total),
            Counter({dtype: number // len(costs) for dtype, number in products.items()}),
        )

    def make_batch(self, batch_size: int) -> dict[str, torch.Tensor]:
        input_ids = torch.zeros(batch_size, self.sample_tokens, dtype=torch.long)  # (batch, sequence)
        images = {
            # Tiles are put together by these values, which a fake tensor would not have.
            name: np.tile(values.numpy(), (batch_size * self.images_per_sample, 1))
            if name == "image_sizes"
            else torch.zeros(batch_size * self.images_per_sample, *values.shape[1:])
            for name, values in self.image.items()
        }
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **images}

    def memory(self, batch_size: int) -> int:
        """The bytes that a step of batches of so many samples takes at its peak."""
        return self.cost(batch_size).memory.total() + self.context


def describe_others(arguments: ModelArguments, num_words: int | None, dtype: torch.dtype) -> Iterator[PreTrainedModel]:
    """The models that have the further language models behind the adapter, as `share_adapter` makes them."""
    for name in (arguments.language_models or [])[1:]:
        other = dataclasses.replace(
            arguments, language_model=name, language_models=None, dtype=str(dtype).removeprefix("torch.")
        )
        yield describe_model(other, needs_folder=False, num_words=num_words)[0]


def weigh_language_model(model: PreTrainedModel) -> int:
    """The bytes of a LangBridge's language model and of its output layer."""
    parts = model.model.language_model, model.lm_head
    # Not counted twice where the output layer's weights are the embeddings.
    tensors = {id(tensor): tensor for part in parts for tensor in (*part.parameters(), *part.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())

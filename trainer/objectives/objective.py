# SPDX-License-Identifier: Apache-2.0
"""What a training run may learn beside the caption loss, and how a batch's share of it adds up to a step's mean."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel


class Objective(ABC):
    """
    Something that images are to learn beside the caption loss.

    TRL computes the caption loss around the model's own forward. An objective therefore watches, by hooks, what of it
    it needs; the collator asks it for tensors of its own, which reach it again under its name; and its terms are
    sums over images, whose mean over all images of a step is what is learnt and logged.

    Args:
        weight (`float`): of its loss beside the caption loss.

    Raises:
        `ValueError`: the weight is not more than 0.
    """

    name: str  # its batches' key; `{name}_weight` is its option

    def __init__(self, weight: float):
        if not weight > 0:
            raise ValueError(f"`{self.name}_weight` is {weight}: give a number above 0, or 0 to leave it out.")
        self.weight = weight
        self.num_images = 0

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Begins to watch the model, which PEFT may have wrapped."""

    @abstractmethod
    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """What it needs to know of a batch of samples as [`~trainer.data.samples.read_sample`] gives them."""

    @abstractmethod
    def count(self, batch: dict[str, torch.Tensor]) -> int:
        """How many of a batch's images have something to learn."""

    @abstractmethod
    def sums(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], accelerator: Accelerator
    ) -> dict[str, torch.Tensor]:
        """
        The terms of the batch that the model has just seen, summed over its images. Every process must call it.

        Args:
            model (`PreTrainedModel`): the bare LangBridge.
            batch (`dict`): what `collate` gave, on the model's device.
            accelerator (`Accelerator`): of the run.

        Returns:
            `dict` with `loss` and, under the names they are logged by, its terms.
        """

    def begin_step(self, batches: list[dict[str, Any]], accelerator: Accelerator) -> None:
        """Counts the images of a whole step, over its accumulated batches and all processes."""
        mine = sum(self.count(batch[self.name]) for batch in batches)
        self.num_images = int(accelerator.gather(torch.tensor([mine], device=accelerator.device)).sum())

    def share(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], accelerator: Accelerator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """
        What the batch just seen adds to the step's loss, by the objective's weight, and to what is logged of it.

        The losses are so scaled that their mean over the processes, which DDP takes, summed over a step's accumulated
        batches, is the mean over its images; what is logged is already that of all processes.
        """
        terms = self.sums(model, batch, accelerator)
        num_images = max(self.num_images, 1)
        loss = terms.pop("loss") * self.weight * accelerator.num_processes / num_images
        logged = {name: accelerator.gather(term.detach()).sum().item() / num_images for name, term in terms.items()}
        return loss, logged

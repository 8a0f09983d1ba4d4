# SPDX-License-Identifier: Apache-2.0
"""Objectives beside the caption loss, each the mean over the images of a whole training step."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel


class Objective(ABC):
    """
    A loss beside the caption loss.

    TRL computes the caption loss around the model's own forward. An objective therefore takes what it needs of that
    forward by hooks. Its `collate` makes tensors of a batch's samples, which the trainer gives back to it under its
    name. Its terms are sums over images; their mean over all images of a step is trained and logged.

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
        """Registers the objective's hooks on the model, which PEFT may have wrapped."""

    @abstractmethod
    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors of a batch of samples, as [`~trainer.data.conversations.ConversationEncoder.encode`] gives them."""

    @abstractmethod
    def count(self, batch: dict[str, torch.Tensor]) -> int:
        """How many of a batch's images count."""

    @abstractmethod
    def sums(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], accelerator: Accelerator
    ) -> dict[str, torch.Tensor]:
        """
        The terms of the batch of the model's last forward, summed over its images. Every process must call it.

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
        What the batch of the last forward adds to the step's loss, times the objective's weight, and to the logs.

        The losses are so scaled that their mean over the processes, which DDP takes, summed over a step's accumulated
        batches, is the mean over its images; what is logged is already that of all processes.
        """
        terms = self.sums(model, batch, accelerator)
        num_images = max(self.num_images, 1)
        loss = terms.pop("loss") * self.weight * accelerator.num_processes / num_images
        logged = {name: accelerator.gather(term.detach()).sum().item() / num_images for name, term in terms.items()}
        return loss, logged

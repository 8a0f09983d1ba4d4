# SPDX-License-Identifier: Apache-2.0
"""A learning rate for each part of the model."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .parts import part_of
from .sft_config import LangBridgeSFTConfig


class PartRatesMixin:
    """
    Before [`~transformers.Trainer`] among a trainer's bases: each part of the model learns at the rate that the
    [`LangBridgeSFTConfig`] gives it.

    Attributes:
        group_parts (`list[str]`): The part of each of the optimizer's groups.
        part_rates (`dict[str, float]`): The rate of each part in the last step.
        peak_rates (`dict[str, float]`): The highest rate of each part; empty where the optimizer is not of this
            trainer's making.
    """

    def __init__(self, model: PreTrainedModel, args: LangBridgeSFTConfig, **kwargs: Any):
        self.group_parts: list[str] = []
        self.part_rates: dict[str, float] = {}
        self.peak_rates: dict[str, float] = {}
        super().__init__(model, args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Splits the optimizer's groups by part, so that each part learns at its own rate."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        optimizer = super().create_optimizer(model)
        parts = {parameter: part_of(name) for name, parameter in model.named_parameters()}
        rates, groups, self.group_parts = self.args.learning_rates(), [], []
        for group in optimizer.param_groups:
            for part, rate in rates.items():
                parameters = [parameter for parameter in group["params"] if parts[parameter] == part]
                if parameters:
                    rate = group["lr"] if rate is None else rate
                    groups.append({**group, "params": parameters, "lr": rate})
                    self.group_parts.append(part)
                    self.peak_rates[part] = rate
        optimizer.param_groups[:] = groups
        return optimizer

    def _get_learning_rate(self) -> float:
        """Called at each step before the schedule moves on: the rates that were used."""
        groups = self.optimizer.param_groups
        self.part_rates = {part: group["lr"] for part, group in zip(self.group_parts, groups, strict=False)}
        return super()._get_learning_rate()

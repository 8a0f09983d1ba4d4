# SPDX-License-Identifier: Apache-2.0
"""Muon for the hidden matrices and AdamW for all else, as one optimizer that a Trainer can schedule and save.

Models of a few hundred thousand parameters learn to copy and to caption within minutes with Muon; with AdamW alone
they did not.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from .parts import part_of


class _NoBfloat16(TorchFunctionMode):
    """Answers `tensor.bfloat16()` with a copy in the tensor's own precision."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].clone()
        return func(*args, **(kwargs or {}))


class MuonWithAdamW(torch.optim.Optimizer):
    r"""
    `torch.optim.Muon` and `torch.optim.AdamW` behind one face: one list of groups to schedule, one state to save.

    Muon's update is scaled to the size of AdamW's ("match_rms_adamw"), so that one learning rate serves both.

    Args:
        matrices (`list[nn.Parameter]` or `list[dict]`):
            Two-dimensional weights of hidden layers, for Muon; in groups with an `lr` of their own, as optimizers take
            them, or all alike.
        others (`list[nn.Parameter]` or `list[dict]`): every other parameter, for AdamW; likewise.
        learning_rate (`float`): of both, and of groups without one.
        weight_decay (`float`, *optional*, defaults to 0.0): of the matrices; the others have none.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter] | list[dict[str, Any]],
        others: list[nn.Parameter] | list[dict[str, Any]],
        learning_rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        self._muon = torch.optim.Muon(
            matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
        self._num_muon_groups = len(self._muon.param_groups)
        super().__init__(self._muon.param_groups + self._adamw.param_groups, defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both; `closure`, where given, recomputes the loss first and its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Loading a checkpoint replaces groups and state, so the two are pointed at this optimizer's at every step.
        self._muon.param_groups = self.param_groups[: self._num_muon_groups]
        self._adamw.param_groups = self.param_groups[self._num_muon_groups :]
        self._muon.state = self._adamw.state = self.state
        if self.param_groups[0]["params"][0].device.type == "cpu":
            with _NoBfloat16():  # where a CPU must emulate bfloat16, Muon's own precision is tens of times slower
                self._muon.step()
        else:
            self._muon.step()
        self._adamw.step()
        return loss


def build_muon(
    model: PreTrainedModel,
    learning_rate: float,
    weight_decay: float = 0.0,
    part_learning_rates: Mapping[str, float] = MappingProxyType({}),
) -> MuonWithAdamW:
    r"""
    Optimizer of a model's trainable parameters: `Trainer(..., optimizers=(build_muon(model, 3e-3), None))`.

    Two-dimensional weights go to Muon, except embeddings and the language-model head, for which AdamW is better
    (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").

    Args:
        model (`PreTrainedModel`): frozen parameters (`requires_grad=False`) are left out; at least one trainable
            parameter must be two-dimensional and one not.
        learning_rate (`float`): of both optimizers.
        weight_decay (`float`, *optional*, defaults to 0.0): of the two-dimensional weights.
        part_learning_rates (`Mapping[str, float]`, *optional*): of parts of a LangBridge that learn at another rate,
            by their names in [`~trainer.parts.PARTS`].

    Returns:
        `MuonWithAdamW`
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if model.get_output_embeddings() is not None:
        tables.append(model.get_output_embeddings())
    table_ids = {id(parameter) for table in tables for parameter in table.parameters()}
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim == 2 and id(parameter) not in table_ids
        rate = part_learning_rates.get(part_of(name), learning_rate) if part_learning_rates else learning_rate
        groups.setdefault((is_matrix, rate), []).append(parameter)
    matrices, others = (
        [{"params": parameters, "lr": rate} for (is_matrix, rate), parameters in groups.items() if is_matrix is kind]
        for kind in (True, False)
    )
    return MuonWithAdamW(matrices, others, learning_rate, weight_decay)

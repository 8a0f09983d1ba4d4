# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a sharded run (FSDP2) in the layout of an unsharded one: each can go on from the other's."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from modeling_langbridge.utils.files import read_safetensors


GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
SCATTER = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)


def gather_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """
    The optimizer's whole state as `optimizer.state_dict()` of an unsharded run has it, by the parameters' numbers.

    Every process must call it; the first alone receives the state.
    """
    state = get_optimizer_state_dict(model, optimizer, options=GATHER)
    if not state:
        return {}
    numbers = {}
    for group in state["param_groups"]:
        group["params"] = [numbers.setdefault(name, len(numbers)) for name in group["params"]]
    state["state"] = {numbers[name]: values for name, values in state["state"].items()}
    return state


def scatter_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Gives each process its shard of the optimizer's state in the file `path`; every process must call it."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group, ours in zip(state["param_groups"], optimizer.param_groups, strict=True):
        group["params"] = [names[parameter] for parameter in ours["params"]]
    names = [name for group in state["param_groups"] for name in group["params"]]
    state["state"] = {names[number]: values for number, values in state["state"].items()}
    set_optimizer_state_dict(model, optimizer, state, options=SCATTER)


def scatter_weights(model: nn.Module, checkpoint: Path) -> None:
    """Gives each process its shard of a checkpoint's weights, or of its LoRA's; every process must call it."""
    files = sorted(checkpoint.glob("model*.safetensors")) or sorted(checkpoint.glob("adapter_model*.safetensors"))
    weights = {name: tensor for file in files for name, tensor in read_safetensors(file).items()}
    state = {}
    for name in model.state_dict():
        saved = name.replace(".modules_to_save.default", "").replace(".default", "")  # as PEFT names what it saves
        if saved in weights:
            state[name] = weights[saved]
    set_model_state_dict(model, state, options=SCATTER)

# SPDX-License-Identifier: Apache-2.0
"""The parts of a LangBridge and how each is trained: frozen, in full, or by LoRA."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from .option_values import AT_LEAST_0, AT_LEAST_1, FROM_0_TO_BELOW_1


logger = logging.get_logger(__name__)

# The modules of each part, by name, and LangBridge-NeXT's newline, which lies where the projector's output is. A model
# whose adapter is not made of words has no vocabulary head; the arguments for that part then have no effect.
PARTS = {
    "vision_tower": ["vision_tower"],
    "projector": ["multi_modal_projector", "image_newline"],
    "vocabulary_head": ["vocabulary_head"],
    "language_model": ["language_model", "lm_head"],
}


@dataclass
class PartArguments:
    """What each part of the model does in training, and how fast it learns."""

    train_vision_tower: Literal["frozen", "full", "lora"] = field(
        default="frozen", metadata={"help": "Whether the vision tower is frozen, trained in full, or by LoRA."}
    )
    train_projector: Literal["frozen", "full"] = field(
        default="full", metadata={"help": "Whether the adapter's projector is frozen or trained."}
    )
    train_vocabulary_head: Literal["frozen", "full"] = field(
        default="full", metadata={"help": "Whether the adapter's vocabulary head is frozen or trained."}
    )
    train_language_model: Literal["frozen", "full", "lora"] = field(
        default="frozen",
        metadata={"help": "Whether the language model with its output layer is frozen, trained in full, or by LoRA."},
    )
    vision_tower_learning_rate: Annotated[float | None, AT_LEAST_0] = field(
        default=None, metadata={"help": "Learning rate of the vision tower; --learning_rate when left out."}
    )
    projector_learning_rate: Annotated[float | None, AT_LEAST_0] = field(
        default=None, metadata={"help": "Learning rate of the projector; --learning_rate when left out."}
    )
    vocabulary_head_learning_rate: Annotated[float | None, AT_LEAST_0] = field(
        default=None, metadata={"help": "Learning rate of the vocabulary head; --learning_rate when left out."}
    )
    language_model_learning_rate: Annotated[float | None, AT_LEAST_0] = field(
        default=None, metadata={"help": "Learning rate of the language model; --learning_rate when left out."}
    )
    lora_r: Annotated[int, AT_LEAST_1] = field(default=16, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: Annotated[int, AT_LEAST_1] = field(
        default=32, metadata={"help": "LoRA's scale: its update is times lora_alpha / lora_r."}
    )
    lora_dropout: Annotated[float, FROM_0_TO_BELOW_1] = field(
        default=0.05, metadata={"help": "Dropout in front of the LoRA matrices."}
    )

    def check_parts(self) -> None:
        """Raises `ValueError` where the parts' modes cannot be combined."""
        modes = self.modes()
        if set(modes.values()) == {"frozen"}:
            raise ValueError("Every part is frozen, so nothing would be trained: set `train_projector` to full, say.")
        if modes["vision_tower"] == "lora" and modes["language_model"] == "full":
            raise ValueError(
                "`train_vision_tower` is lora and `train_language_model` full: LoRA's file would hold the whole "
                "language model. Train the tower in full, too, or the language model by LoRA."
            )

    def modes(self) -> dict[str, str]:
        """What each part does, by its name in `PARTS`."""
        return {
            "vision_tower": self.train_vision_tower,
            "projector": self.train_projector,
            "vocabulary_head": self.train_vocabulary_head,
            "language_model": self.train_language_model,
        }

    def learning_rates(self) -> dict[str, float | None]:
        """The learning rate of each part, `None` for the common one."""
        return {
            "vision_tower": self.vision_tower_learning_rate,
            "projector": self.projector_learning_rate,
            "vocabulary_head": self.vocabulary_head_learning_rate,
            "language_model": self.language_model_learning_rate,
        }


def part_of(parameter_name: str) -> str:
    """The part that a parameter belongs to, whatever PEFT or a launcher has put around the model."""
    path = parameter_name.split(".")
    return next(part for part, modules in PARTS.items() if any(module in path for module in modules))


def plain_name(name: str) -> str:
    """A parameter's name in the model itself, without what PEFT puts around a part that it keeps in full."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")


def prepare_parts(model: PreTrainedModel, arguments: PartArguments) -> LoraConfig | None:
    """
    Freezes and unfreezes the parameters of a LangBridge, part by part.

    Args:
        model (`PreTrainedModel`): the LangBridge, not yet wrapped by PEFT.
        arguments ([`PartArguments`]): each part's mode.

    Returns:
        `LoraConfig` for those parts that are trained by LoRA, which also keeps the parts trained in full in LoRA's one
        file; `None` where no part is.

    Raises:
        `ValueError`: the parts' modes cannot be combined, or every part that the model has is frozen.
    """
    arguments.check_parts()
    present = {part_of(name) for name, _ in model.named_parameters()}
    modes = {part: mode for part, mode in arguments.modes().items() if part in present}
    if set(modes.values()) == {"frozen"}:
        raise ValueError(
            f"Every part that a model of `adapter_type` {model.config.adapter_type!r} has is frozen, so nothing would "
            "be trained: set `train_projector` to full, say."
        )
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(modes[part_of(name)] == "full")
    with_lora = [part for part, mode in modes.items() if mode == "lora"]
    if not with_lora:
        return None
    for parameter in model.model.parameters(recurse=False):  # the newline: PEFT keeps no parameter without a module
        parameter.requires_grad_(False)
    modules = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    full = [name for part, mode in modes.items() if mode == "full" for name in PARTS[part] if name in modules]
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules="|".join(lora_pattern(model, part) for part in with_lora),
        modules_to_save=full or None,
    )


def lora_pattern(model: PreTrainedModel, part: str) -> str:
    """A regular expression for every linear layer inside one part: plain names would reach into the others too."""
    module = model.model.get_submodule(part)
    layers = {
        name.rpartition(".")[2] for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, Conv1D))
    }
    return rf"model\.{part}\..*\.(?:{'|'.join(sorted(layers))})"


def keep_trained_in_float32(model: nn.Module) -> None:
    """Keeps what is trained in float32: in bfloat16, steps smaller than a 256th of a weight would be rounded away."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def describe_parts(model: nn.Module, arguments: PartArguments, learning_rate: float) -> str:
    """What is trained and what is frozen, with numbers of parameters."""
    modes, rates, lines = arguments.modes(), arguments.learning_rates(), []
    total, trained = count_parameters(model)
    for part in (part for part in modes if part in total):
        mode = modes[part]
        if mode == "frozen":
            lines.append(f"  {part}: frozen, {total[part]:,} parameters stay as they are")
        else:
            how = "in full" if mode == "full" else f"by LoRA of rank {arguments.lora_r}"
            rate = learning_rate if rates[part] is None else rates[part]
            lines.append(f"  {part}: trained {how}, {trained[part]:,} parameters at learning rate {rate:g}")
    share = 100 * sum(trained.values()) / sum(total.values())
    return "\n".join([f"What is trained ({share:.1f} % of {sum(total.values()):,} parameters):", *lines])


def count_parameters(model: nn.Module) -> tuple[Counter[str], Counter[str]]:
    """The parameters of each part, and those of them that are trained."""
    total, trained = Counter(), Counter()
    for name, parameter in model.named_parameters():
        if "original_module" in name.split("."):  # PEFT keeps the untrained copy of what it saves in full
            continue
        # bitsandbytes packs values.
        packed = getattr(parameter, "quant_state", None)
        count = parameter.numel() if packed is None else math.prod(packed.shape)
        total[part_of(name)] += count
        trained[part_of(name)] += count if parameter.requires_grad else 0
    return total, trained


def describe_memory(model: nn.Module) -> str:
    """The memory that weights and AdamW take, without sharding."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    memory = [in_units(size) for size in (weights, trained, 2 * trained)]
    return "Memory: {} of weights, {} of gradients, {} of AdamW's state; scripts/plan.py counts the rest.".format(
        *memory
    )


def in_units(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"

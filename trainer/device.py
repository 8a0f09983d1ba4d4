# SPDX-License-Identifier: Apache-2.0
"""On a machine without a GPU a run uses the CPU, in a precision that the CPU has, without being told."""

from typing import Any

import torch
from transformers import TrainingArguments


def has_gpu() -> bool:
    """Whether there is a GPU or another accelerator."""
    return torch.accelerator.is_available()


def has_bfloat16() -> bool:
    """Whether the CPU multiplies matrices in bfloat16; others emulate it, slower than float32."""
    return any(supported for name, supported in torch.cpu.get_capabilities().items() if name.endswith("_bf16"))


def fit_to_machine(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe's options, with its precision turned into one that a machine without a GPU has."""
    if has_gpu():
        return recipe
    recipe = {name: value for name, value in recipe.items() if (name, value) not in (("tf32", True), ("fp16", True))}
    return {**recipe, "bf16": has_bfloat16()} if recipe.get("bf16") is True else recipe


def fit_options_to_machine(options: TrainingArguments) -> None:
    """Sets `use_cpu` where there is no GPU, and a `bf16` that is left open to what the CPU has."""
    if not has_gpu():
        options.use_cpu = True
        if options.bf16 is None:
            options.bf16 = has_bfloat16() and not options.fp16


def describe_device(options: TrainingArguments) -> str:
    """Where a run computes, and in which precision."""
    precision = "bfloat16 beside float32" if options.bf16 else "float16 beside float32" if options.fp16 else "float32"
    where = "the CPU" if options.use_cpu else str(options.device)
    why = "" if has_gpu() else ", as there is no GPU here"
    return f"Computes on {where} in {precision}{why}."

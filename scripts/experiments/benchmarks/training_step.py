# SPDX-License-Identifier: Apache-2.0
"""A whole training step, AdamW's included: transformers' LLaVA, ours of the same parts, and the published order.

The vision tower is frozen. Pretraining trains the adapter; full the language model as well; lora the adapter and LoRA
matrices of rank 16 on the language model, under activation checkpointing, which is TRL's default. Logits are computed
of the answers alone.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from accelerate.utils import is_peft_model
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from .measuring import count_work, measure, with_product
from .models import OriginalOrder, freeze_but, make_batch, make_langbridge, make_llava, with_head
from .shapes import Shapes
from .tables import Table, compare, show


ADAPTER = ["multi_modal_projector", "vocabulary_head"]


def answer(arguments: argparse.Namespace) -> list[Table]:
    shapes = Shapes(arguments.scale, arguments.shape, arguments.layers, arguments.projector_hidden_size)
    langbridge = make_langbridge(shapes)
    models = {
        "LLaVA": make_llava(shapes, langbridge),
        "LangBridge": langbridge,
        "LangBridge, original order": with_head(langbridge, OriginalOrder),
    }
    for model in models.values():
        model.to(arguments.device)
    batch = make_batch(shapes, arguments.images, device=arguments.device)
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    return [compare_stage(stage, models, shapes, batch, dtype, arguments) for stage in arguments.stages]


def compare_stage(
    stage: str,
    models: dict[str, PreTrainedModel],
    shapes: Shapes,
    batch: dict[str, torch.Tensor],
    dtype: torch.dtype,
    arguments: argparse.Namespace,
) -> Table:
    steps = {}
    for name, model in models.items():
        steps[name] = make_step(prepare(model, stage), batch, dtype, arguments.device)
    timings = measure(with_product(steps, dtype, arguments.device), arguments.rounds, arguments.device)
    work = {name: count_work(step) for name, step in steps.items()}
    images, tokens = batch["pixel_values"].shape[0], batch["input_ids"].numel()
    further = {
        "samples/s": {name: images / timing.median for name, timing in timings.items()},
        "tokens/s": {name: tokens / timing.median for name, timing in timings.items()},
    }
    if arguments.device == "cuda":
        further["peak memory, GiB"] = {name: peak_memory(step) for name, step in steps.items()}
    for model in models.values():
        model.requires_grad_(True)
    text = shapes.text()
    title = (
        f"{stage}: {images} samples of {tokens // images} tokens, {shapes.num_image_tokens} of them visual; "
        f"{show(shapes.times(shapes.projector_hidden_size))} H, {show(shapes.words)} V, "
        f"{text.hidden_size} d, {text.num_hidden_layers} layers; {str(dtype).removeprefix('torch.')}"
    )
    return compare(title, timings, work, further)


def prepare(model: PreTrainedModel, stage: str) -> nn.Module:
    """The model as the stage trains it."""
    if stage == "lora":
        model = copy.deepcopy(model)  # PEFT changes the language model, which the three share
        model.activation_checkpointing_enable({"use_reentrant": False})
        present = [part for part in ADAPTER if getattr(model.model, part, None) is not None]
        target = r"model\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
        wrapped = get_peft_model(model, LoraConfig(r=16, target_modules=target, modules_to_save=present))
        wrapped.enable_input_require_grads()
        return wrapped.train()
    freeze_but(model, *ADAPTER, *(["language_model", "lm_head"] if stage == "full" else []))
    return model.train()


def make_step(model: nn.Module, batch: dict[str, torch.Tensor], dtype: torch.dtype, device: str) -> Callable[[], None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    bare = model.get_base_model() if is_peft_model(model) else model
    inputs, labels = dict(batch), batch["labels"][:, 1:]  # (images, tokens - 1)
    del inputs["labels"]
    answered = labels != -100

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            hidden_states = bare.model(**inputs).last_hidden_state[:, :-1]  # (images, tokens - 1, d)
            loss = F.cross_entropy(bare.lm_head(hidden_states[answered]), labels[answered])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_memory(step: Callable[[], None]) -> float:
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30

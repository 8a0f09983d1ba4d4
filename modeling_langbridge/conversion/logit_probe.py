# SPDX-License-Identifier: Apache-2.0
"""Compares the logits of two models on a fixed picture and question, and writes a model with that check."""

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin

from ..reading.questions import prepare_question


TOLERANCE = 1e-5


class LogitDifference(NamedTuple):
    """The largest difference of two models' logits on the probe, and the largest logit by magnitude."""

    difference: float
    largest: float

    @property
    def allowed(self) -> float:
        return TOLERANCE * max(1.0, self.largest)

    def is_small(self) -> bool:
        return self.difference <= self.allowed  # false where a logit is not a number

    def __str__(self) -> str:
        return f"{self.difference:.2g} (the largest logit is {self.largest:.3g}, allowed is {self.allowed:.1g})"


@torch.no_grad()
def probe(model: PreTrainedModel, processor: ProcessorMixin) -> torch.Tensor:
    """The logits `(1, tokens, vocabulary)` for a fixed question about a fixed picture of shapes."""
    image = Image.new("RGB", (96, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((6, 10, 40, 44), fill="red")
    draw.rectangle((50, 24, 88, 58), fill="blue")
    draw.polygon(((44, 4), (60, 20), (30, 20)), fill="green")
    return model(**prepare_question(processor, [image], "What is in the picture, and where?")).logits


def compare_logits(logits: torch.Tensor, reference: torch.Tensor) -> LogitDifference:
    return LogitDifference((logits - reference).abs().max().item(), reference.abs().max().item())


def save_in(model: PreTrainedModel, processor: ProcessorMixin, folder: Path, dtype: torch.dtype) -> LogitDifference:
    """
    Writes a model with its processor, loads it again, and compares the logits.

    Args:
        model (`PreTrainedModel`):
            A LangBridge or a LLaVA in float32. It is converted to `dtype`.
        processor (`ProcessorMixin`):
            Its processor.
        folder (`Path`):
            The folder to write, see [`~modeling_langbridge.utils.files.atomic_folder`].
        dtype (`torch.dtype`):
            The dtype of the written weights.

    Returns:
        `LogitDifference`: the effect of rounding the weights to `dtype`; 0 for float32.

    Raises:
        `ValueError`: the weights overflow in `dtype`, or the reloaded model has other logits than the one that was
        written.
    """
    exact = probe(model, processor)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(dtype))
    rounded = probe(model, processor)
    if not rounded.isfinite().all():
        raise ValueError(f"Weights or logits are too large for {dtype}: write the model in another dtype.")
    # After the probe: this also rounds what loading computes again, the frequencies of rotary embeddings.
    model.to(dtype)
    for config in (model.config, model.config.text_config, model.config.vision_config):
        config.dtype = dtype
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    saved = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    reloaded = compare_logits(probe(saved, type(processor).from_pretrained(folder)), rounded)
    if not reloaded.is_small():
        raise ValueError(f"The logits of the reloaded model differ by {reloaded}: nothing was kept.")
    return compare_logits(rounded, exact)

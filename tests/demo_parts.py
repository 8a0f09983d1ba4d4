# SPDX-License-Identifier: Apache-2.0
"""Tiny random parts under the names of the real ones, in a cache of pretrained parts, for the adapter that ships."""

from pathlib import Path

import torch
from tiny_parts import SIZES
from transformers import (
    AutoModelForCausalLM,
    EfficientNetConfig,
    EfficientNetImageProcessorPil,
    EfficientNetModel,
    Gemma3TextConfig,
    LlamaConfig,
)

from experiments.small_language_model import train_tokenizer
from modeling_langbridge import LangBridgeAdapter


def save_demo_parts(cache: Path) -> None:
    """Saves `efficientnet_lite0`, `smollm2` and `gemma3`, whose tokenizers have the adapter's words whole."""
    torch.manual_seed(0)
    config = EfficientNetConfig(  # by default, random weights let nothing through
        width_coefficient=1.0, depth_coefficient=0.1, hidden_dim=1280, image_size=64, initializer_range=0.5
    )
    EfficientNetModel(config).save_pretrained(cache / "efficientnet_lite0")
    size = {"height": 64, "width": 64}
    EfficientNetImageProcessorPil(size=size).save_pretrained(cache / "efficientnet_lite0")
    words = LangBridgeAdapter.grounded_efficientnet_lite0().vocabulary.surfaces
    tokenizer = train_tokenizer(words, 9000, "byte_level")
    for name, kind in (("smollm2", LlamaConfig), ("gemma3", Gemma3TextConfig)):
        config = kind(**SIZES, head_dim=8, vocab_size=len(tokenizer), tie_word_embeddings=True)
        AutoModelForCausalLM.from_config(config).save_pretrained(cache / name)
        tokenizer.save_pretrained(cache / name)

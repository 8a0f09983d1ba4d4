# SPDX-License-Identifier: Apache-2.0
"""A LangBridge-NeXT beside transformers' LLaVA-NeXT of the same parts.

These are Qwen2 0.5B's decoder, and CLIP's ViT-L/14 at 336 pixels with two layers, of random weights. One image of
672 x 672 pixels has 2,928 visual tokens. The projector is as wide as the language model (H = d), as LLaVA's is. A
training step trains adapter and language model; the tower is frozen.
"""

import argparse
from functools import partial

import torch
from torch import nn
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from modeling_langbridge import LangBridgeNextConfig, LangBridgeNextForConditionalGeneration

from .measuring import measure
from .models import freeze_but, with_parts_of
from .shapes import Shapes
from .tables import Table, compare


def answer(arguments: argparse.Namespace) -> list[Table]:
    parts = Shapes(layers=arguments.layers, vocab_size=arguments.words + 1).parts()
    parts["vision_config"].num_hidden_layers = 2
    fields = {"projector_hidden_size": parts["text_config"].hidden_size, "bridge_vocab_size": arguments.words}
    ours = LangBridgeNextForConditionalGeneration(LangBridgeNextConfig(**parts, **fields))
    stock = with_parts_of(LlavaNextForConditionalGeneration(LlavaNextConfig(**parts)), ours)
    num_tokens = 576 + 48 * 49  # the overview, and 48 rows of 48 patches and a newline
    input_ids = torch.randint(arguments.words, (1, num_tokens + 32))
    input_ids[:, :num_tokens] = arguments.words
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(1, 5, 3, 336, 336),
        "image_sizes": torch.tensor([[672, 672]]),
    }
    models = {"LLaVA-NeXT": stock, "LangBridge-NeXT": ours}
    trained = ("multi_modal_projector", "vocabulary_head", "image_newline", "language_model", "lm_head")

    def step(model: nn.Module) -> None:
        freeze_but(model.train(), *trained)
        model.zero_grad()
        model(**inputs, labels=input_ids.where(input_ids < arguments.words, -100)).loss.backward()

    @torch.no_grad()
    def generate(model: nn.Module) -> None:
        model.eval()
        model.generate(**inputs, max_new_tokens=16, min_new_tokens=16, do_sample=False)

    tables = []
    for title, way in {"A training step": step, "Generation of 16 tokens": generate}.items():
        ways = {name: partial(way, model) for name, model in models.items()}
        tables.append(compare(f"{title}; H = d, V {arguments.words:,}", measure(ways, arguments.rounds)))
    return tables

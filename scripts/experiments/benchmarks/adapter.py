# SPDX-License-Identifier: Apache-2.0
"""The adapter alone: LLaVA's MLP, ours, and the published code's order, over visual tokens, H, V and d."""

import argparse

import torch
from torch import nn
from transformers import CLIPVisionConfig, Qwen2Config

from modeling_langbridge import LangBridgeConfig
from modeling_langbridge.folded_adapter import FoldedAdapter
from modeling_langbridge.modeling_langbridge import LangBridgeMultiModalProjector
from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead

from .measuring import count_work, measure, with_product
from .models import OriginalOrder
from .tables import Table, compare


FEATURE_SIZE = 1024  # CLIP-L's


class Adapter(nn.Module):
    """A projector, a vocabulary head and the words' embeddings, as a LangBridge puts them together."""

    def __init__(self, projector: nn.Module, head: nn.Module, embedding: nn.Embedding):
        super().__init__()
        self.projector, self.head, self.embedding = projector, head, embedding
        self.folded = FoldedAdapter()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        output_map = self.folded.find_map(self.projector, self.head, self.embedding, features)
        if output_map is None:
            return self.head(self.projector(features), self.folded.embed_words(self.head, self.embedding))
        return self.projector(features, output_map)


def make_adapter(
    H: int,
    V: int,
    d: int,
    head_class: type[LangBridgeVocabularyHead] = LangBridgeVocabularyHead,
    activation: str = "linear",
) -> Adapter:
    """An adapter of CLIP-L's features, with random weights."""
    config = LangBridgeConfig(
        vision_config=CLIPVisionConfig(hidden_size=FEATURE_SIZE, num_attention_heads=16),
        text_config=Qwen2Config(hidden_size=d),
        projector_hidden_size=H,
        bridge_vocab_size=V,
        coefficient_activation=activation,
    )
    head = head_class(config)
    nn.init.normal_(head.weight, std=V**-0.5 / 100)
    for parameter in (head.bias, head.gate_weight, head.gate_bias):
        if parameter is not None:
            nn.init.zeros_(parameter)
    return Adapter(LangBridgeMultiModalProjector(config), head, nn.Embedding(V, d).requires_grad_(False))


def make_mlp(width: int, d: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURE_SIZE, width), nn.GELU(), nn.Linear(width, d))


def answer(arguments: argparse.Namespace) -> list[Table]:
    H, V, d, device = arguments.projector_hidden_size, arguments.words, arguments.width, arguments.device
    ways = {
        "LLaVA's MLP, d wide": make_mlp(d, d),
        "LLaVA's MLP, H wide": make_mlp(H, d),
        "LangBridge": make_adapter(H, V, d),
        "LangBridge, original order": make_adapter(H, V, d, OriginalOrder),
        "LangBridge, gated softmax": make_adapter(H, V, d, activation="gated_softmax"),
    }
    ways = {name: way.to(device) for name, way in ways.items()}
    sizes = f"H {H:,}, V {V:,}, d {d:,}"
    image = torch.randn(1, arguments.tokens, FEATURE_SIZE, device=device)
    batch = torch.randn(arguments.images, arguments.tokens, FEATURE_SIZE, device=device)
    return [look(ways, image, arguments, sizes), train(ways, batch, arguments, sizes)]


def look(ways: dict[str, nn.Module], image: torch.Tensor, arguments: argparse.Namespace, sizes: str) -> Table:
    for way in ways.values():
        way.eval()
    head = ways["LangBridge, original order"].head
    head.training = True  # otherwise it would fold, too
    with torch.no_grad():
        runs = {name: (lambda way=way: way(image)) for name, way in ways.items()}
        timings = measure(with_product(runs, torch.float32, arguments.device), arguments.rounds, arguments.device)
        work = {name: count_work(run) for name, run in runs.items()}
    note = "LangBridge's map is folded in the round that does not count."
    return compare(f"Inference, an image of {image.shape[1]} tokens; {sizes}", timings, work, notes=[note])


def train(ways: dict[str, nn.Module], batch: torch.Tensor, arguments: argparse.Namespace, sizes: str) -> Table:
    def step(way: nn.Module) -> None:
        way.zero_grad()
        way(batch).sum().backward()

    for way in ways.values():
        way.train()
    runs = {name: (lambda way=way: step(way)) for name, way in ways.items()}
    timings = measure(with_product(runs, torch.float32, arguments.device), arguments.rounds, arguments.device)
    work = {name: count_work(run) for name, run in runs.items()}
    ours, original = timings["LangBridge"], timings["LangBridge, original order"]
    note = (
        f"The original order takes {original.ratio_to(ours):.1f} times as long as ours. Largest tensor: "
        f"{work['LangBridge'].largest:,} elements, where tokens x V are {batch.shape[:2].numel() * arguments.words:,}."
    )
    title = f"Forward and backward, {batch.shape[:2].numel():,} visual tokens; {sizes}"
    return compare(title, timings, work, notes=[note])

# SPDX-License-Identifier: Apache-2.0
"""Times the adapter's ways of computing the same thing, on random weights at the paper's sizes.

Medians over alternating rounds in one run, so that a noisy machine disturbs all of them alike:

    python scripts/benchmark_adapter.py
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import trange
from transformers import CLIPVisionConfig, Qwen2Config

from modeling_langbridge import LangBridgeConfig
from modeling_langbridge.folded_adapter import FoldedAdapter
from modeling_langbridge.modeling_langbridge import LangBridgeMultiModalProjector
from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead


def compare(title: str, ways: dict[str, Callable], rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in trange(rounds, desc=title, leave=False):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    print(f"\n{title}\n")
    print("| | seconds | against the first |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median / first:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=576, help="visual tokens of an image (default: 576)")
    parser.add_argument("--images", type=int, default=4, help="images of a training step (default: 4)")
    parser.add_argument("--words", type=int, default=19200, help="shared words V (default: 19200)")
    parser.add_argument("--projector_hidden_size", type=int, default=5120, help="projector width H (default: 5120)")
    parser.add_argument("--width", type=int, default=896, help="language model's width d (default: 896, Qwen2-0.5B)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that the medians are taken over (default: 5)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    H, V, d = arguments.projector_hidden_size, arguments.words, arguments.width
    config = LangBridgeConfig(
        vision_config=CLIPVisionConfig(hidden_size=1024, num_attention_heads=16),
        text_config=Qwen2Config(hidden_size=d),
        projector_hidden_size=H,
        bridge_vocab_size=V,
    )
    projector, head, embedding = (
        LangBridgeMultiModalProjector(config),
        LangBridgeVocabularyHead(config),
        nn.Embedding(V, d).requires_grad_(False),
    )
    nn.init.normal_(head.weight, std=V**-0.5 / 100)
    nn.init.zeros_(head.bias)
    mlp = nn.Sequential(nn.Linear(1024, H), nn.GELU(), nn.Linear(H, d))
    image = torch.randn(1, arguments.tokens, 1024)
    batch = torch.randn(arguments.images, arguments.tokens, 1024)
    fold = FoldedAdapter()

    def in_order(features: torch.Tensor) -> torch.Tensor:
        return head.get_coefficients(projector(features)) @ head.embed_words(embedding)

    def folded() -> torch.Tensor:
        fold.refresh(projector.linear_2, head, embedding)
        return F.linear(projector.activate(image), fold.weight, fold.bias)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32; H {H}, V {V}, d {d}")
    with torch.no_grad():
        start = time.perf_counter()
        folded()
        print(f"the first image, folding included: {time.perf_counter() - start:.1f} s")
        ways = {"LLaVA's MLP, H wide": lambda: mlp(image), "folded": folded, "in order": lambda: in_order(image)}
        compare(f"Inference, an image of {arguments.tokens} tokens", ways, arguments.rounds)
        exact = in_order_in_float64(projector, head, embedding, image)
        for name, way in (("folded", folded), ("in order", lambda: in_order(image))):
            print(f"relative error, {name}: {((way() - exact).norm() / exact.norm()).item():.1e}")

    training = {
        "vocabulary head": lambda: head(projector(batch), head.embed_words(embedding)).sum().backward(),
        "in order": lambda: in_order(batch).sum().backward(),
    }
    compare(f"Training, forward and backward, {arguments.images} images", training, arguments.rounds)


def in_order_in_float64(projector, head, embedding, image) -> torch.Tensor:
    hidden = projector.double()(image.double())  # (1, tokens, H)
    exact = head.double().get_coefficients(hidden) @ head.embed_words(embedding.double())  # (1, tokens, d)
    for part in (projector, head, embedding):
        part.float()
    return exact


if __name__ == "__main__":
    main()

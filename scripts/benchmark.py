# SPDX-License-Identifier: Apache-2.0
"""Times the adapter, or what assignment prediction adds to a training step, or a whole LangBridge-NeXT beside
transformers' LLaVA-NeXT, on random weights at the papers' sizes.

Medians over alternating rounds in one run, so that a noisy machine disturbs everything that is compared alike:

    python scripts/benchmark.py adapter
    python scripts/benchmark.py assignment_prediction
    python scripts/benchmark.py high_resolution
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from trainer.command_line import run_script


if TYPE_CHECKING:
    import torch


ASSIGNMENT_PREDICTION = """
What assignment prediction adds to a training step, beside a frozen language model's forward and backward.

The language model has Qwen2 0.5B's decoder and random weights. Its passes over a few photos or captions are scaled to
the batch, which would take a CPU minutes. Vision tower, adapter and output layer are left out of the step, so that the
shares are rather too large. Photos and captions are of words drawn by frequency, for which Sinkhorn needs some hundred
rounds.
"""


HIGH_RESOLUTION = """
A LangBridge-NeXT beside transformers' LLaVA-NeXT of the same parts: Qwen2 0.5B's decoder, and CLIP's ViT-L/14 at 336
pixels with two layers, of random weights. One image of 672 x 672 pixels has 2,928 visual tokens. The projector is as
wide as the language model (H = d), as LLaVA's is. A training step trains adapter and language model; the tower is
frozen. The seconds are the process's CPU time, which other work on the machine disturbs less.
"""


def parse_arguments() -> argparse.Namespace:
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(description=__doc__, **raw)
    questions = parser.add_subparsers(dest="question", metavar="QUESTION", required=True)

    adapter = questions.add_parser(
        "adapter",
        help="the adapter's ways of computing the same thing",
        description="The adapter's ways of computing the same thing, beside LLaVA's MLP.",
    )
    adapter.add_argument("--images", type=int, default=4, help="images of a training step (default: 4)")
    adapter.add_argument("--projector_hidden_size", type=int, default=5120, help="projector width H (default: 5120)")
    adapter.add_argument("--width", type=int, default=896, help="language model's width d (default: 896, Qwen2-0.5B)")
    adapter.add_argument("--rounds", type=int, default=5, help="rounds that the medians are taken over (default: 5)")
    adapter.set_defaults(answer=time_adapter)

    prediction = questions.add_parser(
        "assignment_prediction",
        help="what assignment prediction adds to a training step",
        description=ASSIGNMENT_PREDICTION,
        **raw,
    )
    prediction.add_argument("--batch", type=int, default=256, help="photos of a training step (default: 256)")
    prediction.add_argument("--caption", type=int, default=16, help="tokens of a caption (default: 16)")
    prediction.add_argument("--photos", type=int, default=2, help="photos that passes are measured on (default: 2)")
    prediction.add_argument(
        "--captions", type=int, default=16, help="captions that their states are measured on (default: 16)"
    )
    prediction.add_argument(
        "--rounds", type=int, default=3, help="rounds that the medians are taken over (default: 3)"
    )
    prediction.set_defaults(answer=time_assignment_prediction)

    resolution = questions.add_parser(
        "high_resolution",
        help="a LangBridge-NeXT beside transformers' LLaVA-NeXT of the same parts",
        description=HIGH_RESOLUTION,
        **raw,
    )
    resolution.add_argument("--layers", type=int, default=24, help="of the language model (default: 24, Qwen2-0.5B)")
    resolution.add_argument("--words", type=int, default=19200, help="shared words V (default: 19200)")
    resolution.add_argument(
        "--rounds", type=int, default=3, help="rounds that the medians are taken over (default: 3)"
    )
    resolution.set_defaults(answer=time_high_resolution)

    for question in (adapter, prediction):
        question.add_argument("--tokens", type=int, default=576, help="visual tokens of an image (default: 576)")
        question.add_argument("--words", type=int, default=19200, help="shared words V (default: 19200)")
    return parser.parse_args()


def median_seconds(
    ways: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The median of the seconds that each way takes, over rounds in which each is run once."""
    from tqdm import trange

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in trange(rounds, leave=False):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def time_adapter(arguments: argparse.Namespace) -> None:
    import torch
    from torch import nn
    from torch.nn import functional as F
    from transformers import CLIPVisionConfig, Qwen2Config

    from modeling_langbridge import LangBridgeConfig
    from modeling_langbridge.folded_adapter import FoldedAdapter
    from modeling_langbridge.modeling_langbridge import LangBridgeMultiModalProjector
    from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead

    H, V, d = arguments.projector_hidden_size, arguments.words, arguments.width
    config = LangBridgeConfig(
        vision_config=CLIPVisionConfig(hidden_size=1024, num_attention_heads=16),
        text_config=Qwen2Config(hidden_size=d),
        projector_hidden_size=H,
        bridge_vocab_size=V,
    )
    projector, head = LangBridgeMultiModalProjector(config), LangBridgeVocabularyHead(config)
    embedding = nn.Embedding(V, d).requires_grad_(False)
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
        seconds = median_seconds(ways, arguments.rounds)
        print(comparison(f"Inference, an image of {arguments.tokens} tokens", seconds))
        exact = in_order_in_float64(projector, head, embedding, image)
        for name in ("folded", "in order"):
            print(f"relative error, {name}: {((ways[name]() - exact).norm() / exact.norm()).item():.1e}")

    training = {
        "vocabulary head": lambda: head(projector(batch), head.embed_words(embedding)).sum().backward(),
        "in order": lambda: in_order(batch).sum().backward(),
    }
    title = f"Training, forward and backward, {arguments.images} images"
    print(comparison(title, median_seconds(training, arguments.rounds)))


def comparison(title: str, seconds: dict[str, float]) -> str:
    first = next(iter(seconds.values()))
    rows = [f"| {name} | {median:.3f} | {median / first:.2f} |" for name, median in seconds.items()]
    return "\n".join([f"\n{title}\n", "| | seconds | against the first |\n|---|---|---|", *rows])


def in_order_in_float64(projector, head, embedding, image: "torch.Tensor") -> "torch.Tensor":
    hidden = projector.double()(image.double())  # (1, tokens, H)
    exact = head.double().get_coefficients(hidden) @ head.embed_words(embedding.double())  # (1, tokens, d)
    for part in (projector, head, embedding):
        part.float()
    return exact


def time_assignment_prediction(arguments: argparse.Namespace) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2Model

    from trainer.objectives.transport import (
        assignment_prediction_loss,
        transport_targets,
        word_frequencies,
        word_scores,
    )

    batch, tokens, caption, V = arguments.batch, arguments.tokens, arguments.caption, arguments.words
    # The class's defaults are a 7B model's.
    shape = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    decoder = Qwen2Model(Qwen2Config(**shape, num_key_value_heads=2, vocab_size=V)).requires_grad_(False)
    embeddings = decoder.get_input_embeddings().weight  # (V, d)
    d = embeddings.shape[1]
    frequencies = word_frequencies((1e7 / torch.arange(1, V + 1)).long(), smoothing=1)
    said = torch.multinomial(frequencies, batch * caption, replacement=True).view(batch, caption)
    seen = torch.multinomial(frequencies, batch * caption, replacement=True).view(batch, caption)
    visual = embeddings[seen.repeat(1, -(-tokens // caption))[:, :tokens]].requires_grad_()  # (batch, tokens, d)
    photos = torch.randn(arguments.photos, tokens + caption, d, requires_grad=True)
    every = torch.ones(batch, caption)

    def step() -> None:
        decoder(inputs_embeds=photos).last_hidden_state.sum().backward()

    @torch.no_grad()
    def read_captions() -> None:
        decoder(input_ids=said[: arguments.captions])

    def score() -> tuple[torch.Tensor, torch.Tensor]:
        means = visual.mean(1, keepdim=True)  # (batch, 1, d)
        return word_scores(means, every[:, :1], embeddings), word_scores(embeddings[said], every, embeddings)

    scores = [side.detach() for side in score()]
    targets = [transport_targets(side, frequencies) for side in scores]

    def transport() -> None:
        for side in scores:
            transport_targets(side, frequencies)

    def predict() -> None:
        assignment_prediction_loss(*score(), *targets).backward()

    layers = sum(parameter.numel() for parameter in decoder.layers.parameters())
    seconds = median_seconds(
        {"step": step, "captions": read_captions, "transport": transport, "predict": predict}, arguments.rounds
    )
    whole = seconds["step"] * batch / arguments.photos
    rows = [
        ("decoder's forward and backward", whole, 2 * batch * (tokens + caption) * layers),
        ("captions' states", seconds["captions"] * batch / arguments.captions, batch * caption * layers),
        ("cosines and loss, forward and backward", seconds["predict"], 3 * batch * V * d),
        ("transport of both sides", seconds["transport"], None),
    ]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32; {batch} photos of {tokens} tokens,")
    print(f"captions of {caption}, V {V}, d {d}; the decoder's pass measured on {arguments.photos} photos,")
    print(f"the captions' on {arguments.captions}\n")
    print("| a step's | seconds | of the decoder's | multiply-adds of products |\n|---|---:|---:|---:|")
    for name, median, products in rows:
        print(f"| {name} | {median:.2f} | {median / whole:.2%} | {f'{products:.1e}' if products else ''} |")
    added = sum(median for _, median, _ in rows[1:])
    print(f"| **added by assignment prediction** | {added:.2f} | {added / whole:.2%} | |")
    print(f"\nLargest tensor of its own: {4 * V * max(batch, d) / 1e6:.0f} MB; tokens x V would be ", end="")
    print(f"{4 * batch * tokens * V / 1e9:.0f} GB.")


def time_high_resolution(arguments: argparse.Namespace) -> None:
    import torch
    from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, Qwen2Config

    from modeling_langbridge import LangBridgeNextConfig, LangBridgeNextForConditionalGeneration

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 16}
    text = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
    parts = {
        "vision_config": CLIPVisionConfig(**vision, image_size=336, patch_size=14),
        "text_config": Qwen2Config(
            **text, num_hidden_layers=arguments.layers, vocab_size=arguments.words + 1, tie_word_embeddings=True
        ),
        "image_token_index": arguments.words,
    }
    ours = LangBridgeNextForConditionalGeneration(
        LangBridgeNextConfig(**parts, projector_hidden_size=text["hidden_size"], bridge_vocab_size=arguments.words)
    )
    stock = LlavaNextForConditionalGeneration(LlavaNextConfig(**parts))
    stock.model.vision_tower, stock.model.language_model = ours.model.vision_tower, ours.model.language_model
    stock.lm_head.weight = ours.lm_head.weight
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

    def step(model: torch.nn.Module) -> None:
        model.train()
        model.model.vision_tower.eval().requires_grad_(False)
        model.zero_grad()
        model(**inputs, labels=input_ids.where(input_ids < arguments.words, -100)).loss.backward()

    @torch.no_grad()
    def generate(model: torch.nn.Module) -> None:
        model.eval()
        model.generate(**inputs, max_new_tokens=16, min_new_tokens=16, do_sample=False)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32; H = d, V {arguments.words:,}")
    generate(ours)  # folds the adapter, which takes as long as a few images, once
    for title, way in {"Training step, CPU time": step, "Generation of 16 tokens, CPU time": generate}.items():
        ways = {name: partial(way, model) for name, model in models.items()}
        print(comparison(title, median_seconds(ways, arguments.rounds, time.process_time)))


def main() -> None:
    arguments = parse_arguments()
    import torch

    torch.manual_seed(0)
    arguments.answer(arguments)


if __name__ == "__main__":
    run_script(main)

# SPDX-License-Identifier: Apache-2.0
"""Times what assignment prediction adds to a training step, beside a frozen language model's forward and backward.

The language model has Qwen2 0.5B's decoder and random weights. Its passes over a few photos or captions are scaled to
the batch, which would take a CPU minutes. Vision tower, adapter and output layer are left out of the step, so that the
shares are rather too large. Photos and captions are of words drawn by frequency, for which Sinkhorn needs some hundred
rounds. Medians over alternating rounds in one run, so that a noisy machine disturbs all alike:

    python scripts/benchmark_assignment.py
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tqdm import trange
from transformers import Qwen2Config, Qwen2Model

from trainer.objectives.transport import (
    assignment_prediction_loss,
    transport_targets,
    word_frequencies,
    word_scores,
)


def medians(ways: dict[str, Callable], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in trange(rounds, leave=False):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256, help="photos of a training step (default: 256)")
    parser.add_argument("--tokens", type=int, default=576, help="visual tokens of a photo (default: 576)")
    parser.add_argument("--caption", type=int, default=16, help="tokens of a caption (default: 16)")
    parser.add_argument("--words", type=int, default=19200, help="shared words V (default: 19200)")
    parser.add_argument("--photos", type=int, default=2, help="photos that passes are measured on (default: 2)")
    parser.add_argument(
        "--captions", type=int, default=16, help="captions that their states are measured on (default: 16)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds that the medians are taken over (default: 3)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
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
    found = medians(
        {"step": step, "captions": read_captions, "transport": transport, "predict": predict}, arguments.rounds
    )
    whole = found["step"] * batch / arguments.photos
    rows = [
        ("decoder's forward and backward", whole, 2 * batch * (tokens + caption) * layers),
        ("captions' states", found["captions"] * batch / arguments.captions, batch * caption * layers),
        ("cosines and loss, forward and backward", found["predict"], 3 * batch * V * d),
        ("transport of both sides", found["transport"], None),
    ]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32; {batch} photos of {tokens} tokens,")
    print(f"captions of {caption}, V {V}, d {d}; the decoder's pass measured on {arguments.photos} photos,")
    print(f"the captions' on {arguments.captions}\n")
    print("| a step's | seconds | of the decoder's | multiply-adds of products |\n|---|---:|---:|---:|")
    for name, seconds, products in rows:
        print(f"| {name} | {seconds:.2f} | {seconds / whole:.2%} | {f'{products:.1e}' if products else ''} |")
    added = sum(seconds for _, seconds, _ in rows[1:])
    print(f"| **added by assignment prediction** | {added:.2f} | {added / whole:.2%} | |")
    print(f"\nLargest tensor of its own: {4 * V * max(batch, d) / 1e6:.0f} MB; tokens x V would be ", end="")
    print(f"{4 * batch * tokens * V / 1e9:.0f} GB.")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What assignment prediction adds to a training step, beside a frozen language model's forward and backward.

The language model has Qwen2 0.5B's decoder and random weights. Its passes over a few photos or captions are scaled to
the batch, which would take a CPU minutes. Vision tower, adapter and output layer are left out of the step, so that the
shares are rather too large. Photos and captions are of words drawn by frequency, for which Sinkhorn needs some hundred
rounds.
"""

import argparse

import torch
from transformers import Qwen2Model

from trainer.objectives.transport import (
    assignment_prediction_loss,
    transport_targets,
    word_frequencies,
    word_scores,
)

from .measuring import measure
from .shapes import Shapes
from .tables import Table


def answer(arguments: argparse.Namespace) -> list[Table]:
    batch, tokens, caption, V = arguments.images, arguments.tokens, arguments.caption, arguments.words
    decoder = Qwen2Model(Shapes(vocab_size=V).text()).requires_grad_(False)
    embeddings = decoder.get_input_embeddings().weight  # (V, d)
    d = embeddings.shape[1]
    frequencies = word_frequencies((1e7 / torch.arange(1, V + 1)).long(), smoothing=1)
    said = torch.multinomial(frequencies, batch * caption, replacement=True).view(batch, caption)
    seen = torch.multinomial(frequencies, batch * caption, replacement=True).view(batch, caption)
    visual = embeddings[seen.repeat(1, -(-tokens // caption))[:, :tokens]].requires_grad_()  # (batch, tokens, d)
    photos = torch.randn(arguments.measured_photos, tokens + caption, d, requires_grad=True)
    every = torch.ones(batch, caption)

    def step() -> None:
        decoder(inputs_embeds=photos).last_hidden_state.sum().backward()

    @torch.no_grad()
    def read_captions() -> None:
        decoder(input_ids=said[: arguments.measured_captions])

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
    ways = {"step": step, "captions": read_captions, "transport": transport, "predict": predict}
    seconds = {name: timing.median for name, timing in measure(ways, arguments.rounds).items()}
    whole = seconds["step"] * batch / arguments.measured_photos
    parts = [
        ("decoder's forward and backward", whole, 2 * batch * (tokens + caption) * layers),
        ("captions' states", seconds["captions"] * batch / arguments.measured_captions, batch * caption * layers),
        ("cosines and loss, forward and backward", seconds["predict"], 3 * batch * V * d),
        ("transport of both sides", seconds["transport"], None),
    ]
    rows = [
        [name, median, f"{median / whole:.2%}", f"{products:.1e}" if products else ""]
        for name, median, products in parts
    ]
    added = sum(median for _, median, _ in parts[1:])
    rows.append(["added by assignment prediction", added, f"{added / whole:.2%}", ""])
    return [
        Table(
            f"A step of {batch} photos of {tokens} tokens, captions of {caption}, V {V:,}, d {d}",
            ["a step's", "seconds", "of the decoder's", "multiply-adds of products"],
            rows,
            [
                f"The decoder's pass is measured on {arguments.measured_photos} photos, the captions' on "
                f"{arguments.measured_captions}. Largest tensor of its own: {4 * V * max(batch, d) / 1e6:.0f} MB; "
                f"tokens x V would be {4 * batch * tokens * V / 1e9:.0f} GB."
            ],
        )
    ]

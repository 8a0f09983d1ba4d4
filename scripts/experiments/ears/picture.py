# SPDX-License-Identifier: Apache-2.0
"""A sentence's words over time, as a picture."""

import os

import matplotlib


matplotlib.use("Agg")  # no window is opened
import torch
from matplotlib import pyplot as plt

from experiments.ears.heard import read_heard
from experiments.ears.hearing import SAMPLES_PER_FRAME
from experiments.ears.listening import listen
from experiments.ears.sentences import read_utterances
from experiments.ears.speech import SAMPLING_RATE
from experiments.ears.transcripts import load_ear
from experiments.ears.words import SharedWords
from experiments.ears.world import EarsWorld


@torch.no_grad()
def draw_words(world: EarsWorld, place: int, path: str | os.PathLike) -> None:
    """Draws the probability of each heard word at each time step of a test sentence, a row a word."""
    utterance = read_utterances(world, "test")[place]
    model = load_ear(world)
    (heard,) = listen(model, world.sizes, [read_heard(world, "test")[place]])
    coefficients = model.model.vocabulary_head(heard.hidden_states)  # (steps, V)
    rows = list(dict.fromkeys(one.word for one in heard.words))
    step = world.sizes.stride * SAMPLES_PER_FRAME / SAMPLING_RATE  # seconds
    figure, axis = plt.subplots(figsize=(9, 0.26 * max(len(rows), 1) + 1.1))
    extent = (0, len(coefficients) * step, len(rows) - 0.5, -0.5)
    axis.imshow(coefficients[:, rows].T, aspect="auto", cmap="Greys", vmin=0, vmax=1, extent=extent)
    axis.set_yticks(range(len(rows)), [SharedWords(world.vocabulary).words[word] for word in rows])
    axis.set_xlabel("seconds")
    axis.set_title(f"“{utterance.sentence}” (voice {utterance.voice.name})", fontsize=10, loc="left")
    figure.savefig(path, dpi=90, bbox_inches="tight", format="png")
    plt.close(figure)

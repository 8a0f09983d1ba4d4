# SPDX-License-Identifier: Apache-2.0
"""How the time of each thing grows with its size.

The slope is that of the time's logarithm over the size's: 1 where twice as much takes twice as long, 2 where four
times. A step is the adapter's forward and backward pass at H 640 and d 896.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets.utils import disable_progress_bars
from matplotlib.figure import Figure

from trainer import load_training_data
from trainer.data.conversations import ConversationEncoder

from .adapter import FEATURE_SIZE, make_adapter
from .measuring import Timing, measure
from .models import make_batch, make_langbridge
from .samples import make_processor, write_samples
from .shapes import Shapes
from .tables import Table


def answer(arguments: argparse.Namespace) -> list[Table]:
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "images of an adapter's step": {n: adapter_step(n, 288, 4800) for n in (4, 8, 16, 32)},
            "visual tokens of an image, adapter's step": {n: adapter_step(4, n, 4800) for n in (288, 576, 1152, 2304)},
            "words V, adapter's step": {n: adapter_step(2, 576, n) for n in (4800, 9600, 19200, 38400)},
            "images looked at by the model": {n: look(n, 336) for n in (1, 2, 4, 8)},
            "pixels of an image's side, looked at": {n: look(1, n) for n in (168, 336, 672)},
            "rows counted before training": {n: count_rows(Path(folder), n) for n in (500, 1000, 2000, 4000)},
        }
        curves = {name: measure(of_size, arguments.rounds) for name, of_size in runs.items()}
    if arguments.plot is not None:
        plot(curves, arguments.plot)
    return [tabulate(curves)]


def adapter_step(images: int, tokens: int, words: int) -> Callable[[], None]:
    adapter = make_adapter(640, words, 896)
    features = torch.randn(images, tokens, FEATURE_SIZE)

    def run() -> None:
        adapter.zero_grad()
        adapter(features).sum().backward()

    return run


def look(images: int, image_size: int) -> Callable[[], None]:
    shapes = Shapes(0.25, image_size=image_size, layers=4)
    model = make_langbridge(shapes, projector_hidden_size=shapes.times(896)).eval()
    batch = make_batch(shapes, images)

    @torch.no_grad()
    def run() -> None:
        model.get_image_features(batch["pixel_values"])

    return run


def count_rows(folder: Path, rows: int) -> Callable[[], None]:
    dataset = load_training_data(str(write_samples(folder, rows)))
    encoder = ConversationEncoder(make_processor(Shapes()))

    def run() -> None:
        for row in dataset:
            encoder.length(row)

    return run


def slope(of_size: dict[int, Timing]) -> float:
    seconds = [timing.median for timing in of_size.values()]
    return float(np.polyfit(np.log(list(of_size)), np.log(seconds), 1)[0])


def tabulate(curves: dict[str, dict[int, Timing]]) -> Table:
    rows = []
    for name, of_size in curves.items():
        (first, *_, last), timings = of_size, list(of_size.values())
        rows.append([name, f"{first:,} to {last:,}", timings[0].median, timings[-1].median, f"{slope(of_size):.2f}"])
    return Table("Growth", ["", "from, to", "seconds", "seconds", "slope"], rows)


def plot(curves: dict[str, dict[int, Timing]], path: Path) -> None:
    """Each curve against its smallest size, over it."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name, of_size in curves.items():
        sizes, seconds = np.array(list(of_size)), np.array([timing.median for timing in of_size.values()])
        axes.loglog(sizes / sizes[0], seconds / seconds[0], marker="o", label=f"{name}: {slope(of_size):.2f}")
    axes.set(xlabel="times the smallest size", ylabel="times its seconds")
    axes.legend()
    figure.savefig(path)

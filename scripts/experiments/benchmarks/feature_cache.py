# SPDX-License-Identifier: Apache-2.0
"""A frozen vision tower's features from the cache, beside opening and preparing photos and running the tower.

A pass reads every photo once, as a training does, in batches; what follows the tower is left out. Photos are JPEGs of
640 x 480 pixels and the tower has random weights, unless a dataset and a tower are named.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset

from modeling_langbridge import LangBridgeForConditionalGeneration, SharedVocabulary
from trainer import compose_for_grounding, load_training_data
from trainer.data.dataset_images import DatasetImages
from trainer.data.dataset_rows import as_rows
from trainer.data.feature_cache import FeatureCache
from trainer.data.feature_key import describe_features
from trainer.features.computing import FeatureComputer

from .measuring import measure
from .models import make_langbridge
from .samples import NUM_PHOTOS, make_processor, write_samples
from .shapes import Shapes
from .tables import Table, compare


def answer(arguments: argparse.Namespace) -> list[Table]:
    with tempfile.TemporaryDirectory() as folder:
        if arguments.dataset is None:
            dataset = load_training_data(str(write_samples(Path(folder), rows=NUM_PHOTOS)))
        else:
            dataset = load_training_data(arguments.dataset, arguments.image_folder)
        return [time_passes(as_rows(dataset), Path(folder) / "features", arguments)]


def make_parts(arguments: argparse.Namespace) -> tuple[LangBridgeForConditionalGeneration, object]:
    if arguments.vision_tower is not None:
        words = SharedVocabulary([" dog", " ball"])
        model, processor = compose_for_grounding(arguments.vision_tower, words, projector_hidden_size=1)
    else:
        shapes = Shapes(arguments.scale, layers=arguments.layers)
        model, processor = make_langbridge(shapes, projector_hidden_size=16), make_processor(shapes)
    return model.eval().requires_grad_(False), processor.image_processor


def time_passes(dataset: Dataset, folder: Path, arguments: argparse.Namespace) -> Table:
    model, image_processor = make_parts(arguments)
    accelerator = Accelerator(cpu=True)
    computer = FeatureComputer(model, image_processor, accelerator, arguments.images, arguments.workers)
    images, numbers = DatasetImages.find([dataset]), count()
    identity = describe_features(model, image_processor)
    filled = FeatureCache(folder / "filled", identity)
    computer.fill(filled, [dataset])
    everything = range(len(images))

    def uncached() -> None:
        for batch in computer.load(images.using(computer.prepare, everything), "uncached"):
            computer.compute([pixels for _, pixels in batch])

    def first_pass() -> None:
        computer.fill(FeatureCache(folder / str(next(numbers)), identity), [dataset])

    def later_pass() -> None:
        for batch in read(FeatureCache(folder / "filled", identity)):
            filled.stack(batch)

    def read(cache: FeatureCache) -> Iterator[list]:
        return computer.load(images.using(cache.read, everything), "cached")

    timings = measure({"uncached": uncached, "first pass": first_pass, "later pass": later_pass}, arguments.rounds)
    rates = {
        "photos/s": {name: len(images) / timing.median for name, timing in timings.items()},
        "photos per second of computing": {
            name: len(images) / statistics.median(timing.compared) for name, timing in timings.items()
        },
    }
    title = f"{len(images):,} photos, {identity['tower']}, {arguments.workers} worker processes"
    note = (
        f"A photo takes {filled.bytes_per_image:,} bytes: {filled.shape[0]} tokens of {filled.shape[1]}, in 16 bits."
    )
    return compare(title, timings, further=rates, notes=[note])

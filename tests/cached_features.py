# SPDX-License-Identifier: Apache-2.0
"""Feature caches of tiny models."""

from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset

from trainer.data.feature_cache import FeatureCache
from trainer.data.feature_key import describe_features
from trainer.features.computing import FeatureComputer


def open_cache(model, processor, folder: Path) -> FeatureCache:
    return FeatureCache(folder, describe_features(model, processor.image_processor))


def make_computer(model, processor, batch_size: int = 3, num_workers: int = 0) -> FeatureComputer:
    return FeatureComputer(model, processor.image_processor, Accelerator(cpu=True), batch_size, num_workers)


def rows_of(images: list, captions: bool = True) -> Dataset:
    """A row for each image: a path, bytes, or what else a column of images holds."""
    return Dataset.from_dict({"image": images, "caption": ["a dog"] * len(images)})


def fill(model, processor, folder: Path, images: list, **options) -> FeatureCache:
    cache = open_cache(model, processor, folder)
    make_computer(model, processor, **options).fill(cache, [rows_of(images)])
    return cache

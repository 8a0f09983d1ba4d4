# SPDX-License-Identifier: Apache-2.0
"""Any dataset as the rows that the collator reads: images undecoded, one caption each, images always a column."""

import logging
from dataclasses import replace
from typing import Any

from datasets import Audio, Dataset, Features, Image, IterableDataset, List, Value, Video
from datasets.fingerprint import Hasher

from .fields import CAPTIONS, CONVERSATIONS, form_of, unused_fields
from .reader_version import READER_VERSION
from .samples import split_captions


logger = logging.getLogger(__name__)


def as_shown(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The columns that a dataset's format shows, as Python objects; a transform is refused, since it would be lost."""
    if isinstance(dataset, IterableDataset):
        return dataset.with_format(None)
    shown = dataset.format
    if shown["type"] == "custom":
        raise ValueError(
            "The dataset's transform (`with_transform`, `set_transform`) would be ignored: apply it by `map`, or by "
            "`to_iterable_dataset().map` for another result in every epoch."
        )
    columns = dataset.column_names if shown["output_all_columns"] else shown["columns"]
    return dataset.with_format(None).select_columns(columns)


def as_rows(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Any dataset as the trainer reads it: images undecoded, a caption a row, and always a column for images."""
    dataset = as_shown(dataset)
    if dataset.features is None:  # a stream that does not say what it holds
        listed: set[str] = set()

        def add_images_and_list(row: dict[str, Any]) -> dict[str, Any]:
            list_unused(row, listed)
            return add_images(row)

        return dataset.map(split_batch, batched=True, batch_size=1).map(add_images_and_list)
    if "__key__" not in dataset.features:  # a webdataset's columns are files
        list_unused(dict.fromkeys(dataset.features, True), set())
    dataset = undecoded(dataset)
    lists = [name for name in CAPTIONS if isinstance(dataset.features.get(name), List)]
    if lists and not set(CONVERSATIONS) & set(dataset.features):
        features = Features({**dataset.features, **dict.fromkeys(["caption", *lists], Value("string"))})
        dataset = dataset.map(split_batch, batched=True, batch_size=100, features=features)
    if {"image", "images"} & set(dataset.features):
        return dataset
    if isinstance(dataset, Dataset):
        return dataset.add_column("images", [[]] * len(dataset), feature=List(Value("string")))
    return dataset.map(add_images)


def undecoded(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The dataset with its images as they are stored, wherever in a row they lie."""
    features = Features(without_decoding(dataset.features))
    if isinstance(dataset, IterableDataset):
        return dataset.cast(features)
    # `Dataset.cast` would write all images again.
    info = dataset.info.copy()
    info.features = features
    fingerprint = Hasher.hash([dataset._fingerprint, READER_VERSION])  # what is made of these rows is kept under it
    return Dataset(dataset.data, info, dataset.split, dataset._indices, fingerprint)


def without_decoding(feature: Any) -> Any:
    if isinstance(feature, Image):
        if feature.mode not in (None, "RGB"):
            raise ValueError(
                f"The dataset converts its images to {feature.mode}, but they are read in RGB: use `map`."
            )
        return Image(decode=False)
    if isinstance(feature, Audio | Video):  # refused later, by name, where a row has one
        return replace(feature, decode=False)
    if isinstance(feature, dict):
        return {name: without_decoding(inner) for name, inner in feature.items()}
    if isinstance(feature, List):
        return replace(feature, feature=without_decoding(feature.feature))
    return feature


def add_images(row: dict[str, Any]) -> dict[str, Any]:
    """TRL takes rows without such a column for text, which it would tokenise itself."""
    return row if "image" in row else {"images": [], **row}


def split_batch(batch: dict[str, list]) -> dict[str, list]:
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    rows = [caption for row in rows for caption in split_captions(row)]
    return {name: [row.get(name) for row in rows] for name in {**batch, "caption": None}}


def list_unused(row: dict[str, Any], listed: set[str]) -> None:
    """Says once which fields training leaves aside; `listed` are those that were said before."""
    unused = [name for name in unused_fields(row, form_of(row)) if name not in listed]
    if unused:
        logger.info("Fields that training does not use: %s.", ", ".join(unused))
        listed.update(unused)

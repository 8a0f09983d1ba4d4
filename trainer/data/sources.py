# SPDX-License-Identifier: Apache-2.0
"""Data in: json files, datasets and shards, local or streamed, as rows that the collator can read."""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from glob import glob
from itertools import groupby
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, List, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from .json_rows import read_json_rows
from .samples import (
    CAPTIONS,
    CONVERSATIONS,
    SampleError,
    is_image_file,
    read_sample,
    read_webdataset,
    split_captions,
)


BLOCK = {"type": Value("string"), "text": Value("string")}
SAMPLE = Features(
    {
        "id": Value("string"),
        "images": List(Value("string")),
        "messages": List({"role": Value("string"), "content": List(BLOCK)}),
        "answers_from": Value("int64"),
    }
)


SHARD_SAMPLE = Features({**SAMPLE, "images": List(Image(decode=False))})


def load_training_data(
    path: str, image_folder: str | None = None, split: str = "train", streaming: bool = False
) -> Dataset | IterableDataset:
    """
    Loads image-text samples from where a user keeps them.

    Args:
        path (`str`):
            A `.json` or `.jsonl` file, a folder written by `Dataset.save_to_disk`, parquet files or webdataset shards
            (`"shards/*.parquet"`, `"shards/*.tar"`), or a dataset's Hub id. Rows may have any form that
            [`~trainer.data.samples.read_sample`] knows.
        image_folder (`str`, *optional*, defaults to the json's own folder):
            What the image paths of a json are relative to.
        split (`str`, *optional*, defaults to `"train"`):
            The split of a dataset with several.
        streaming (`bool`, *optional*, defaults to `False`):
            Read rows as they are needed instead of preparing them first: for sets larger than memory or disk.

    Returns:
        `Dataset`, or `IterableDataset` when streaming.

    Raises:
        `ValueError`: names the file, the sample and what is wrong with it.
    """
    suffix = Path(path).suffix
    if suffix in (".json", ".jsonl"):
        folder = {"image_folder": str(image_folder or Path(path).parent)}
        return load_files(read_json_samples, [str(path)], folder, SAMPLE, streaming)
    if suffix == ".tar" and "://" not in str(path):
        return load_files(read_shards, sorted(glob(str(path))) or [str(path)], {}, SHARD_SAMPLE, streaming)
    if suffix in (".parquet", ".tar"):
        builder = "webdataset" if suffix == ".tar" else "parquet"
        dataset = load_dataset(builder, data_files=str(path), split="train", streaming=streaming)
    elif Path(path).is_dir():
        dataset = load_from_disk(path)
        if isinstance(dataset, DatasetDict):
            if split not in dataset:
                raise ValueError(f"{path} has no split {split}: name one of {sorted(dataset)}.")
            dataset = dataset[split]
        dataset = dataset.to_iterable_dataset() if streaming else dataset
    else:
        dataset = load_dataset(path, split=split, streaming=streaming)
    return dataset


def load_files(
    read: Callable[..., Iterator[dict[str, Any]]],
    paths: list[str],
    options: dict[str, str],
    features: Features,
    streaming: bool,
) -> Dataset | IterableDataset:
    absent = next((path for path in paths if not os.path.isfile(path)), None)
    if absent is not None:
        raise ValueError(f"{absent} cannot be read: there is no such file.")
    files = {"paths": paths, **options}
    if streaming:
        return IterableDataset.from_generator(read, gen_kwargs=files, features=features)
    # datasets keeps what it prepares and knows it by these arguments: a changed file must not pass for the old one.
    modified = str([os.stat(path).st_mtime_ns for path in paths])
    try:
        return Dataset.from_generator(read, gen_kwargs={**files, "modified": modified}, features=features)
    except DatasetGenerationError as error:
        raise error.__cause__ from None


def read_json_samples(paths: list[str], image_folder: str, modified: str = "") -> Iterator[dict[str, Any]]:
    for path in paths:
        for line, row in read_json_rows(Path(path)):
            if isinstance(row, SampleError):
                raise ValueError(f"{path}, line {line}: {row}.")
            name = f", sample {row['id']}" if "id" in row else ""
            yield from read_samples(row, f"{path}, line {line}{name}", image_folder)


def read_shards(paths: list[str], modified: str = "") -> Iterator[dict[str, Any]]:
    """Webdataset shards; datasets' own reader wants all samples to be of the same files, and to fit its first five."""
    for path in paths:
        try:
            with tarfile.open(path, mode="r|*") as shard:
                files = filter(tarfile.TarInfo.isfile, shard)
                for key, members in groupby(files, key=lambda file: split_name(file)[0]):
                    row = {"__key__": key}
                    for file in members:
                        content = shard.extractfile(file).read()
                        named = {"bytes": content, "path": file.name}  # as datasets keeps images
                        row[split_name(file)[1]] = named if is_image_file(file.name) else content
                    yield from read_samples(row, f"{path}, sample {key}")
        except tarfile.TarError as error:
            raise ValueError(f"{path} cannot be read as a tar file: {error}.") from error


def split_name(file: tarfile.TarInfo) -> tuple[str, str]:
    """`photos/7.0.jpg` is the file `0.jpg` of sample `photos/7`."""
    folder, name = os.path.split(file.name)
    key, _, extension = name.partition(".")
    return os.path.join(folder, key), extension


def read_samples(row: dict[str, Any], place: str, image_folder: str | None = None) -> Iterator[dict[str, Any]]:
    try:
        row = read_webdataset(row) if "__key__" in row else row
        for caption in split_captions(row):
            yield read_sample(caption, image_folder)
    except SampleError as error:
        raise ValueError(f"{place}: {error}.") from error


def as_rows(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Any dataset as the trainer reads it: images undecoded, a caption a row, and always a column for images."""
    if dataset.features is None:  # a stream that does not say what it holds
        return dataset.map(split_batch, batched=True, batch_size=1).map(add_images)
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
    return Dataset(dataset.data, info, dataset.split, dataset._indices)


def without_decoding(feature: Any) -> Any:
    if isinstance(feature, Image):
        return Image(decode=False)
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

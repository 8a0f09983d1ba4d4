# SPDX-License-Identifier: Apache-2.0
"""Data in: json files, datasets and shards, local or streamed, as rows that the collator can read."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    List,
    Value,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError

from modeling_langbridge.utils.files import first_line

from .dataset_rows import as_rows, list_unused, undecoded
from .faults import SampleError
from .fields import BESIDE, FORMS
from .image_checks import BadImages, check_images
from .image_places import ImageRules
from .json_rows import read_json_rows
from .reader_version import READER_VERSION
from .samples import naming, read_sample, read_webdataset, split_captions
from .shards import read_shard_rows


logger = logging.getLogger(__name__)

COMPRESSED = {".gz", ".tgz", ".zip", ".zst", ".xz", ".bz2", ".7z"}

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
    path: str,
    image_folder: str | None = None,
    split: str = "train",
    streaming: bool = False,
    allow_image_urls: bool = False,
    allow_paths_outside: bool = False,
    bad_images: BadImages = "stop",
) -> Dataset | IterableDataset:
    """
    Loads image-text samples from where a user keeps them, and looks for their images.

    Args:
        path (`str`):
            A `.json` or `.jsonl` file, a folder written by `Dataset.save_to_disk`, parquet files or webdataset shards
            (`"shards/*.parquet"`, `"shards/*.tar"`), or a dataset's Hub id. Rows may have any form that
            [`~trainer.data.samples.read_sample`] knows.
        image_folder (`str`, *optional*, defaults to a json's own folder, else the current one):
            What relative image paths are relative to. A dataset that is not a json or local shards is prepared once
            more for it, images included: leave it out where the dataset holds its images.
        split (`str`, *optional*, defaults to `"train"`):
            The split of a dataset with several.
        streaming (`bool`, *optional*, defaults to `False`):
            Read rows as they are needed instead of preparing them first: for sets larger than memory or disk.
        allow_image_urls (`bool`, *optional*, defaults to `False`):
            Whether images may be URLs, which the data then make this machine fetch.
        allow_paths_outside (`bool`, *optional*, defaults to `False`):
            Whether image paths may lead out of the image folder, by `..` or as absolute ones.
        bad_images (`str`, *optional*, defaults to `"stop"`):
            `"stop"` refuses data with missing image files, before anything else. `"skip"` opens every image and leaves
            out the samples of those that are missing or broken; a warning counts and names them.

    Returns:
        `Dataset`, or `IterableDataset` when streaming, whose images are checked as they come.

    Raises:
        `ValueError`: names the file, the sample and what is wrong with it.
    """
    dataset = load_rows(path, image_folder, split, streaming)
    if isinstance(dataset, Dataset) and not len(dataset):
        raise ValueError(f"{path} has no samples.")
    stored = dataset if dataset.features is None else undecoded(dataset)
    folder = image_folder or (Path(path).parent if is_json(path) else os.curdir)
    checked = check_images(
        stored, str(path), ImageRules(str(folder), allow_image_urls, allow_paths_outside), bad_images
    )
    return dataset if checked is stored else checked


def load_rows(
    path: str, image_folder: str | None = None, split: str = "train", streaming: bool = False
) -> Dataset | IterableDataset:
    """Rows as for [`load_training_data`], whose images were not looked for."""
    if image_folder is not None and not Path(image_folder).is_dir():
        raise ValueError(f"`image_folder` {image_folder} is no folder.")
    check_split(path, split)
    if is_json(path):
        folder = {"image_folder": str(image_folder or Path(path).parent)}
        return load_files(read_json_samples, find_files(path), folder, SAMPLE, streaming)
    if is_shards(path):
        return load_files(read_shards, find_files(path), {}, SHARD_SAMPLE, streaming)
    suffix = Path(path).suffix.lower()
    if suffix in (".parquet", ".tar"):
        builder = "webdataset" if suffix == ".tar" else "parquet"
        files = str(path) if "://" in str(path) else find_files(path)
        dataset = load_by_datasets(str(path), builder, data_files=files, split="train", streaming=streaming)
    elif Path(path).is_dir():
        dataset = load_saved(path, split)
        dataset = dataset.to_iterable_dataset() if streaming else dataset
    else:
        refuse_what_is_not_on_the_hub(str(path))
        dataset = load_by_datasets(str(path), str(path), split=split, streaming=streaming)
    return dataset if image_folder is None else with_image_folder(dataset, str(image_folder))


def check_split(path: str | os.PathLike, split: str) -> None:
    """Refuses a split that would be ignored."""
    if split != "train" and Path(path).suffix.lower() in (".json", ".jsonl", ".tar", ".parquet"):
        raise ValueError(f"`dataset_split` {split} says nothing of {path}, which has no splits: leave it out.")


def load_by_datasets(path: str, builder: str, **options: Any) -> Dataset | IterableDataset:
    try:
        return load_dataset(builder, **options)
    except (DatasetGenerationError, ValueError) as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"{path} cannot be read: {reason}.") from error


def is_json(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() in (".json", ".jsonl")


def is_shards(path: str | os.PathLike) -> bool:
    """Whether these are local webdataset shards."""
    return Path(path).suffix.lower() == ".tar" and "://" not in str(path)


def find_files(path: str | os.PathLike) -> list[str]:
    """The files of a path or a pattern; a missing one is named, and so is what is no file, such as a named pipe."""
    files = sorted(glob(str(path))) or [str(path)]
    for file in files:
        if not os.path.isfile(file):
            reason = "it is no file" if os.path.exists(file) else "there is no such file"
            raise ValueError(f"{file} cannot be read: {reason}.")
    return files


def load_saved(path: str, split: str) -> Dataset:
    try:
        dataset = load_from_disk(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no folder of `Dataset.save_to_disk`: name its files ('{path}/*.parquet', '{path}/*.tar'), or "
            "list its images and captions in a .json."
        ) from error
    except IndexError as error:  # what datasets makes of no rows
        raise ValueError(f"{path} has no samples.") from error
    if not isinstance(dataset, DatasetDict):
        return dataset
    if split not in dataset:
        raise ValueError(f"{path} has no split {split}: name one of {sorted(dataset)} as `dataset_split`.")
    return dataset[split]


def refuse_what_is_not_on_the_hub(path: str) -> None:
    """The Hub would be asked for it several times, over half a minute."""
    suffix = Path(path).suffix.lower()
    if suffix in COMPRESSED:
        raise ValueError(f"{path} is compressed: unpack it and name what it holds.")
    not_read = (
        r"\.(csv|tsv|txt|xlsx?|arrow|feather|ya?ml|xml|html?|py|npz|npy|pt|pkl|db|jpe?g|png|webp|gif|bmp|tiff?)$"
    )
    if os.path.exists(path) or re.search(not_read, path, re.IGNORECASE):
        raise ValueError(
            f"{path} is of no form that is read: make a .json, .jsonl, .parquet or .tar of it, such as by "
            "`datasets.Dataset.to_parquet`."
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or path.startswith("."):
        raise ValueError(f"{path} is no file, no folder and no Hub id.")


def with_image_folder(dataset: Dataset | IterableDataset, image_folder: str) -> Dataset | IterableDataset:
    """The dataset's samples in the form of [`~trainer.data.samples.read_sample`], their image paths in the folder."""

    def read(row: dict[str, Any]) -> dict[str, Any]:
        with naming(row):
            return read_sample(row, image_folder)

    dataset = as_rows(dataset)
    if dataset.features is None:  # a stream that does not say what it holds
        return dataset.map(read, remove_columns=[*BESIDE, *(name for form in FORMS for name in form)])
    return dataset.map(read, remove_columns=dataset.column_names, features=SHARD_SAMPLE)


def load_files(
    read: Callable[..., Iterator[dict[str, Any]]],
    paths: list[str],
    options: dict[str, str],
    features: Features,
    streaming: bool,
) -> Dataset | IterableDataset:
    files = {"paths": paths, **options}
    if streaming:
        return IterableDataset.from_generator(read, gen_kwargs=files, features=features)
    # datasets keeps what it prepares and knows it by these arguments: another file, or the same rows as an earlier
    # version of the code read them, must not pass for what is read now.
    found = [(os.path.abspath(path), stat.st_mtime_ns, stat.st_size) for path in paths for stat in [os.stat(path)]]
    try:
        return Dataset.from_generator(
            read, gen_kwargs={**files, "key": f"{found} {READER_VERSION}"}, features=features
        )
    except DatasetGenerationError as error:
        raise error.__cause__ from None
    except ValueError as error:  # of datasets' own: not a single row came
        raise ValueError(f"{', '.join(paths)} has no samples.") from error


def read_json_samples(paths: list[str], image_folder: str, key: str = "") -> Iterator[dict[str, Any]]:
    listed: set[str] = set()
    for path in paths:
        for line, row in read_json_rows(Path(path)):
            if isinstance(row, SampleError):
                raise ValueError(f"{path}, line {line}: {row}.")
            name = f", sample {row['id']}" if "id" in row else ""
            yield from read_samples(row, f"{path}, line {line}{name}", listed, image_folder)


def read_shards(paths: list[str], key: str = "") -> Iterator[dict[str, Any]]:
    listed: set[str] = set()
    for path in paths:
        for row in read_shard_rows(path):
            yield from read_samples(row, f"{path}, sample {row['__key__']}", listed)


def read_samples(
    row: dict[str, Any], place: str, listed: set[str], image_folder: str | None = None
) -> Iterator[dict[str, Any]]:
    try:
        row = read_webdataset(row) if "__key__" in row else row
        for caption in split_captions(row):
            list_unused(caption, listed)
            yield read_sample(caption, image_folder)
    except SampleError as error:
        raise ValueError(f"{place}: {error}.") from error

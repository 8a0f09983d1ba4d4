# SPDX-License-Identifier: Apache-2.0
"""Photos with all their captions, read from any form of training data."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .caption_words import caption_of
from .dataset_rows import as_rows
from .faults import SampleError
from .image_places import in_folder, is_inline, path_of
from .json_rows import read_json_rows
from .samples import read_sample, split_captions
from .sources import load_rows


@dataclass(frozen=True)
class CaptionedPhoto:
    """
    A photo with all its captions.

    Args:
        name (`str`): the file's name, or the sample's where the image is in the dataset.
        image: what [`~trainer.data.images.open_image`] opens.
        captions (`list[str]`): at least one.
    """

    name: str
    image: Any
    captions: list[str]


def read_captioned_photos(path: str, image_folder: str | None = None, split: str = "test") -> list[CaptionedPhoto]:
    """
    Reads photos with captions; rows of the same image are one photo with several captions.

    Args:
        path (`str`): as for [`~trainer.data.sources.load_training_data`], with one image a row.
        image_folder (`str`, *optional*):
            What a json's image paths are relative to: its own folder, or `images` in it, where not given.
        split (`str`, *optional*, defaults to `"test"`):
            The rows of a json whose field `split` says so, all where no row has one; or a dataset's split.

    Raises:
        `ValueError`: names the row and what is wrong with it, or that there is no photo in this split.
    """
    captioned: dict[Any, CaptionedPhoto] = {}
    for sample in read_samples_of_split(path, image_folder, split):
        if len(sample["images"]) != 1:
            raise ValueError(
                f"Sample {sample['id']} in {path} has {len(sample['images'])} images: retrieval takes one a row."
            )
        image = sample["images"][0]
        content = image.get("bytes") if isinstance(image, dict) else None
        key = hashlib.blake2b(content).digest() if content else path_of(image)
        name = Path(path_of(image)).name if path_of(image) and not is_inline(image) else sample["id"]
        captioned.setdefault(key, CaptionedPhoto(name, image, [])).captions.append(caption_of(sample))
    return list(captioned.values())


def read_samples_of_split(path: str, image_folder: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Rows in the form of [`~trainer.data.samples.read_sample`]; a json is read here, since its splits are fields."""
    if Path(path).suffix.lower() not in (".json", ".jsonl"):
        split = "train" if Path(path).suffix.lower() in (".tar", ".parquet") else split
        yield from map(read_sample, as_rows(load_rows(path, image_folder, split)))
        return
    splits: set[str] = set()
    found = False
    for line, row in read_json_rows(Path(path)):
        try:
            if isinstance(row, SampleError):
                raise row
            splits.add(str(row.get("split", split)))
            if row.get("split", split) != split:
                continue
            for caption in split_captions(row):
                sample = read_sample(caption)
                if image_folder is None and sample["images"]:
                    image_folder = folder_of_images(Path(path).parent, sample["images"][0])
                sample["images"] = [in_folder(image, image_folder) for image in sample["images"]]
                found = True
                yield sample
        except SampleError as error:
            raise ValueError(f"{path}, line {line}: {error}.") from error
    if not found:
        others = f", only in {', '.join(sorted(splits))}: name one of these, or another file" if splits else ""
        raise ValueError(f"{path} has no sample in split {split!r}{others}.")


def folder_of_images(folder: Path, image: Any) -> str:
    """Where a json's images lie: in its own folder, or in `images` beside it, by where the first one is."""
    beside = folder / "images"
    name = path_of(image)
    return str(beside if name and not (folder / name).exists() and (beside / name).exists() else folder)

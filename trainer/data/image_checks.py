# SPDX-License-Identifier: Apache-2.0
"""The images that a dataset names are looked for before training, not met in its third hour."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from tqdm import tqdm

from .faults import SampleError
from .image_places import ImageRules, file_of
from .images import open_image
from .samples import name_of, naming, read_sample, split_captions


logger = logging.getLogger(__name__)

BadImages = Literal["stop", "skip"]
ROWS_AT_ONCE = 256


def check_images(
    dataset: Dataset | IterableDataset, source: str, rules: ImageRules, bad_images: BadImages
) -> Dataset | IterableDataset:
    """
    Sees that a dataset names only images that it may name, and that they are there.

    Args:
        dataset (`Dataset` or `IterableDataset`):
            Rows with images as they are stored. A stream is checked as it flows.
        source (`str`):
            What the dataset was loaded from, for the messages.
        rules ([`~trainer.data.image_places.ImageRules`]):
            Which images it may name.
        bad_images (`str`):
            `"stop"` refuses missing files. `"skip"` opens every image once and leaves out the rows whose images are
            missing or broken; a warning counts and names them.

    Raises:
        `ValueError`: names the sample and its image.
    """
    opens = bad_images == "skip"
    if isinstance(dataset, IterableDataset):
        return check_stream(dataset, rules, opens)
    found: dict[str, SampleError | None] = {}  # of files and URLs, which many rows may share

    def find(image: Any) -> SampleError | None:
        file = file_of(image, urls_too=True)
        if file is None:
            return find_fault(image, rules, opens)
        if file not in found:
            found[file] = find_fault(image, rules, opens)
        return found[file]

    rows = dataset if opens else rows_without_bytes(dataset)
    rows = iter(tqdm(rows, "Looking for images", len(dataset), leave=False, unit=" rows", disable=None, delay=2))
    bad: dict[int, str] = {}
    number = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            named = [images_of(row) for row in batch]
            faults = (pool.map if opens else map)(find, chain.from_iterable(named))
            for row, images in zip(batch, named, strict=True):
                for fault in filter(None, list(islice(faults, len(images)))):
                    bad.setdefault(number, f"{name_of(row)}: {fault}")
                    if fault.fault == "image elsewhere":
                        raise ValueError(f"{source}, {bad[number]}.")
                number += 1
    if not bad:
        return dataset
    if not opens:
        more = f", and {len(bad) - 1:,} more samples miss theirs" if len(bad) > 1 else ""
        way_out = "mend the paths or `image_folder`, or set `bad_images` to skip"
        raise ValueError(f"{source}, {next(iter(bad.values()))}{more}: {way_out}.")
    if len(bad) == number:
        raise ValueError(f"{source} has no sample with all its images, such as {bad[0]}.")
    names = "; ".join(list(bad.values())[:5])
    logger.warning(
        "Left out %s of %s samples of %s, whose images are missing or broken: %s%s.",
        *(f"{len(bad):,}", f"{number:,}", source, names, "; ..." if len(bad) > 5 else ""),
    )
    return dataset.select([row for row in range(number) if row not in bad])


def check_stream(dataset: IterableDataset, rules: ImageRules, opens: bool) -> IterableDataset:
    num_left_out = 0

    def is_good(row: dict[str, Any]) -> bool:
        nonlocal num_left_out
        for image in images_of(row):
            fault = find_fault(image, rules, opens)
            if fault is None:
                continue
            if not opens or fault.fault == "image elsewhere":
                with naming(row):
                    raise fault
            num_left_out += 1
            logger.warning("Left out %s: %s (%s left out so far).", name_of(row), fault, num_left_out)
            return False
        return True

    return dataset.filter(is_good)


def find_fault(image: Any, rules: ImageRules, opens: bool) -> SampleError | None:
    """Why an image may not be read, is not there or, where it is opened, is broken."""
    file = file_of(image)
    try:
        rules.check(image)
        if opens:
            open_image(image)
        elif file is not None and not os.path.isfile(file):
            reason = "is no file" if os.path.exists(file) else "does not exist"
            raise SampleError("missing image", f"the image {file[:200]} {reason}")
    except SampleError as error:
        return SampleError(error.fault, str(error))  # a new one, since the caught one holds on to the image
    return None


def images_of(row: dict[str, Any]) -> list:
    """The images of a row's samples; none where they cannot be read, of which the trainer complains."""
    try:
        return [image for part in split_captions(row) for image in read_sample(part)["images"]]
    except SampleError:
        return []


def rows_without_bytes(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """A dataset's rows with all bytes emptied, so that its images themselves stay on the disk."""
    features = dataset.features  # which makes a copy every time
    for table in dataset.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        for batch in table.to_batches():
            for values in zip(*map(values_without_bytes, batch.columns), strict=True):
                row = dict(zip(batch.schema.names, values, strict=True))
                yield features.decode_example(row)


def values_without_bytes(array: pa.Array) -> list:
    is_valid = array.is_valid().to_pylist()
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return [b"" if valid else None for valid in is_valid]
    if pa.types.is_struct(array.type):
        names = [field.name for field in array.type]
        rows = zip(is_valid, *map(values_without_bytes, array.flatten()), strict=True)
        return [dict(zip(names, values, strict=True)) if valid else None for valid, *values in rows]
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        inner = iter(values_without_bytes(array.flatten()))
        lengths = pc.list_value_length(array).to_pylist()
        return [None if length is None else list(islice(inner, length)) for length in lengths]
    return array.to_pylist()

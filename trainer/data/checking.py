# SPDX-License-Identifier: Apache-2.0
"""Finds everything that is wrong with a training file before any training, and writes out the rows without faults."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk
from tqdm import tqdm
from transformers import ProcessorMixin

from modeling_langbridge.utils.files import atomic_file, atomic_folder

from .conversations import ConversationEncoder
from .fields import form_of, is_empty, unused_fields
from .images import open_image
from .json_rows import read_json_rows
from .samples import SampleError, read_sample, split_captions
from .sources import undecoded


ROWS_AT_ONCE = 256  # their images are decoded side by side


@dataclass
class Fault:
    """One thing that is wrong with one sample, which is named by its id, else by its image, its answer or its row."""

    kind: str
    line: int
    sample: str
    message: str


@dataclass
class Report:
    """
    What [`check_file`] found.

    Attributes:
        path (`Path`):
            The file.
        counts (`Counter[str]`):
            How many faults there are of each kind.
        examples (`dict[str, list[Fault]]`):
            The first few faults of each kind.
        faulty_rows (`set[int]`):
            The rows with a fault, counted from 0.
        unused_fields (`set[str]`):
            The fields that training leaves aside, since they do not change what is learnt.
        num_rows, num_samples, num_faulty, num_images (`int`):
            The rows; the samples made of them (a row with five captions makes five); those with a fault; the different
            images that they name.
    """

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Fault]] = field(default_factory=dict)
    faulty_rows: set[int] = field(default_factory=set)
    unused_fields: set[str] = field(default_factory=set)
    num_rows: int = 0
    num_samples: int = 0
    num_faulty: int = 0
    num_images: int = 0

    @property
    def num_clean(self) -> int:
        return self.num_samples - self.num_faulty

    def place(self, line: int) -> str:
        """`file:line`, or for a saved dataset, which has no lines, its row."""
        return f"{self.path}, row {line}" if self.path.is_dir() else f"{self.path}:{line}"


@dataclass
class CheckedSample:
    """A sample with its faults; the last five fields stay empty where it could not be read."""

    row: int
    line: int
    name: str
    faults: list[SampleError]
    unused_fields: list[str] = field(default_factory=list)
    sample: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    content: bytes = b""
    images: dict[bytes, Any] = field(default_factory=dict)


def check_file(
    path: str | os.PathLike,
    image_folder: str | os.PathLike | None = None,
    processor: ProcessorMixin | None = None,
    max_length: int | None = None,
    num_examples: int = 3,
) -> Report:
    """
    Reads every sample of a training file and decodes every image that they name, each once.

    Args:
        path (`str` or `os.PathLike`):
            A `.json` list, a `.jsonl` file or a folder of `Dataset.save_to_disk`.
        image_folder (`str` or `os.PathLike`, *optional*, defaults to a json file's own folder):
            What relative image paths are relative to.
        processor (`ProcessorMixin`, *optional*):
            Goes with `max_length`: what makes tokens of the samples.
        max_length (`int`, *optional*):
            A sample of more tokens, those of its images counted, is faulty.
        num_examples (`int`, *optional*, defaults to 3):
            How many faults of each kind the report shows.

    Returns:
        [`Report`]

    Raises:
        `ValueError`: the file cannot be read at all, or has no samples.
    """
    report = Report(Path(path))
    if image_folder is None and not report.path.is_dir():
        image_folder = report.path.parent
    encoder = None if processor is None else ConversationEncoder(processor)
    image_faults: dict[bytes, SampleError | None] = {}
    contents: dict[bytes, tuple[int, str]] = {}
    ids: dict[str, tuple[int, bytes]] = {}
    rows = enumerate(read_rows(report.path))
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(unit=" rows", disable=None, leave=False) as progress:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            checked = [one for row, (line, content) in batch for one in check_row(row, line, content, image_folder)]
            images = {key: image for one in checked for key, image in one.images.items() if key not in image_faults}
            decoding = pool.map(find_image_fault, images.values())
            if encoder is not None:
                for one in checked:
                    one.faults += find_length_fault(one, encoder, max_length)
            image_faults.update(zip(images, decoding, strict=True))
            for one in checked:
                one.faults += [image_faults[key] for key in one.images if image_faults[key] is not None]
                one.faults += find_repeats(one, contents, ids, report)
                add_to_report(report, one, num_examples)
            report.num_rows += len(batch)
            progress.update(len(batch))
    report.num_images = len(image_faults)
    if report.num_rows == 0:
        raise ValueError(f"{path} has no samples.")
    return report


def read_rows(path: Path) -> Iterator[tuple[int, dict | SampleError]]:
    """The rows with their lines, or of a saved dataset with their numbers and with images as they are stored."""
    if path.is_file() and path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{path} is no .json, .jsonl or folder of `Dataset.save_to_disk`, which alone are checked.")
    if path.is_dir():
        # datasets would stop at the first image that it cannot decode.
        yield from enumerate(undecoded(load_rows(path)))
    else:
        yield from read_json_rows(path)


def load_rows(path: Path) -> Dataset:
    try:
        dataset = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no folder of `Dataset.save_to_disk`: {error}") from error
    if not isinstance(dataset, Dataset):
        raise ValueError(f"{path} has several splits: name the folder of one, such as {path / next(iter(dataset))}.")
    return dataset


def check_row(
    row: int, line: int, content: dict | SampleError, image_folder: str | os.PathLike | None
) -> list[CheckedSample]:
    """Reads the samples of one row."""
    if isinstance(content, SampleError):
        return [CheckedSample(row, line, f"row {row}", [content])]
    row_id = None if content.get("id") is None else str(content["id"])
    checked = []
    for part in split_captions(content):
        one = CheckedSample(row, line, row_id or f"row {row}", [])
        try:
            sample = read_sample(part, image_folder)
            one.images = {fingerprint(image): image for image in sample["images"]}
            one.content = fingerprint([sample["images"], sample["messages"]])
        except SampleError as error:
            one.faults.append(error)
        except Exception as error:  # nonsense fails in as many ways as there is nonsense
            one.faults.append(SampleError("malformed", f"it makes no sense ({type(error).__name__}: {error})"))
        else:
            one.sample, one.name = sample, sample["id"]
            filled = [name for name, value in part.items() if not is_empty(value)]
            one.unused_fields = [] if "__key__" in part else unused_fields(filled, form_of(part))
            one.id = None if checked else row_id  # a row's captions share its id
        checked.append(one)
    return checked


def fingerprint(value: Any) -> bytes:
    """16 bytes that tell images and messages apart: what is kept of them, so that a large file fits into memory."""
    text = json.dumps(value, ensure_ascii=False, default=lambda other: hashlib.blake2b(other).hexdigest())
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def find_image_fault(image: Any) -> SampleError | None:
    try:
        open_image(image)
    except SampleError as error:
        return SampleError(error.fault, str(error))  # a new one, since the caught one holds on to the image
    return None


def find_length_fault(one: CheckedSample, encoder: ConversationEncoder, max_length: int) -> list[SampleError]:
    if not one.sample:
        return []
    try:
        length = encoder.length(one.sample)
    except SampleError as error:
        return [error]
    if length <= max_length:
        return []
    return [SampleError("too long", f"{length} tokens, more than {max_length}")]


def find_repeats(
    one: CheckedSample,
    contents: dict[bytes, tuple[int, str]],
    ids: dict[str, tuple[int, bytes]],
    report: Report,
) -> Iterator[SampleError]:
    """Compares a sample with the earlier ones, `contents` and `ids`, and adds it to them."""
    if not one.sample:
        return
    if one.content in contents:
        line, name = contents[one.content]
        yield SampleError("duplicate", f"the same images and messages as {name} ({report.place(line)})")
    contents.setdefault(one.content, (one.line, one.name))
    if one.id is not None:
        line, content = ids.setdefault(one.id, (one.line, one.content))
        if content != one.content:
            yield SampleError("repeated id", f"another sample has the same id ({report.place(line)})")


def add_to_report(report: Report, one: CheckedSample, num_examples: int) -> None:
    report.num_samples += 1
    report.unused_fields.update(one.unused_fields)
    if one.faults:
        report.num_faulty += 1
        report.faulty_rows.add(one.row)
    for error in one.faults:
        report.counts[error.fault] += 1
        examples = report.examples.setdefault(error.fault, [])
        if len(examples) < num_examples:
            examples.append(Fault(error.fault, one.line, one.name, str(error)))


def write_clean_rows(report: Report, output: str | os.PathLike) -> None:
    """
    Writes the rows without faults, unchanged and in order, in the format of the file itself, atomically.

    Args:
        report ([`Report`]):
            What [`check_file`] found in the file, which is read a second time.
        output (`str` or `os.PathLike`):
            The new file, or for a saved dataset the new folder.

    Raises:
        `FileExistsError`: `output` exists; it is not touched.
        `ValueError`: there is no row without a fault.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists: remove it or name another one.")
    if len(report.faulty_rows) == report.num_rows:
        raise ValueError(f"{report.path} has no clean sample: {output} is not written.")
    if report.path.is_dir():
        clean = [row for row in range(report.num_rows) if row not in report.faulty_rows]
        with atomic_folder(output) as folder:
            load_rows(report.path).select(clean).save_to_disk(str(folder))
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    begin, between, end = ("", "\n", "\n") if report.path.suffix == ".jsonl" else ("[\n", ",\n", "\n]\n")
    # A lone surrogate, in a field that training does not use, is written as the escape that it was.
    options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    with atomic_file(output) as unfinished, unfinished.open("w", **options) as file:
        for row, (_, content) in enumerate(read_json_rows(report.path)):
            if row not in report.faulty_rows:
                file.write(begin + json.dumps(content, ensure_ascii=False))
                begin = between
        file.write(end)

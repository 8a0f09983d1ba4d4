# SPDX-License-Identifier: Apache-2.0
"""Finds everything that is wrong with a training file before any training, and writes out the rows without faults."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import ProcessorMixin

from modeling_langbridge.utils.files import atomic_file, atomic_folder

from .conversations import ConversationEncoder
from .dataset_rows import undecoded
from .faults import SampleError
from .fields import form_of, is_empty, unused_fields
from .image_places import ImageRules
from .images import open_image
from .json_rows import read_json_rows
from .samples import read_sample, read_webdataset, split_captions
from .shards import read_shard_rows, write_shard_rows
from .sources import check_split, find_files, is_json, is_shards, load_rows


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
        path, split (`str`):
            What was checked.
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

    path: str
    split: str = "train"
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
        """`file:line`, or for data without lines the row."""
        return f"{self.path}:{line}" if is_json(self.path) else f"{self.path}, row {line}"


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
    split: str = "train",
    allow_image_urls: bool = False,
    allow_paths_outside: bool = False,
) -> Report:
    """
    Reads every sample of training data and decodes every image that they name, each once.

    Args:
        path (`str` or `os.PathLike`):
            What [`~trainer.data.sources.load_training_data`] reads.
        image_folder (`str` or `os.PathLike`, *optional*, defaults to a json file's own folder, else the current one):
            What relative image paths are relative to.
        processor (`ProcessorMixin`, *optional*):
            What makes tokens of the samples: finds special tokens in texts, and what the chat template refuses.
        max_length (`int`, *optional*):
            With `processor`: a sample of more tokens, those of its images counted, is faulty.
        num_examples (`int`, *optional*, defaults to 3):
            How many faults of each kind the report shows.
        split, allow_image_urls, allow_paths_outside:
            As for [`~trainer.data.sources.load_training_data`].

    Returns:
        [`Report`]

    Raises:
        `ValueError`: the file cannot be read at all, or has no samples.
    """
    check_split(path, split)
    report = Report(str(path), split)
    if image_folder is None and is_json(path):
        image_folder = Path(path).parent
    image_folder = None if image_folder is None else str(image_folder)
    rules = ImageRules(image_folder or os.curdir, allow_image_urls, allow_paths_outside)
    encoder = None if processor is None else ConversationEncoder(processor)
    image_faults: dict[bytes, SampleError | None] = {}
    contents: dict[bytes, tuple[int, str]] = {}
    ids: dict[str, tuple[int, bytes]] = {}
    rows = enumerate(read_rows(report.path, split))
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(unit=" rows", disable=None, leave=False) as progress:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            place = image_folder, rules
            checked = [one for row, (line, content) in batch for one in check_row(row, line, content, *place)]
            images = {key: image for one in checked for key, image in one.images.items() if key not in image_faults}
            decoding = pool.map(find_image_fault, images.values())
            if encoder is not None:
                for one in checked:
                    one.faults += find_token_faults(one, encoder, max_length)
            image_faults.update(zip(images, decoding, strict=True))
            for one in checked:
                found = {str(fault) for fault in one.faults}  # counting tiles meets an image without a header, too
                faults = [image_faults[key] for key in one.images if image_faults[key] is not None]
                one.faults += [fault for fault in faults if str(fault) not in found]
                one.faults += find_repeats(one, contents, ids, report)
                add_to_report(report, one, num_examples)
            report.num_rows += len(batch)
            progress.update(len(batch))
    report.num_images = len(image_faults)
    if report.num_rows == 0:
        raise ValueError(f"{path} has no samples.")
    return report


def read_rows(path: str, split: str) -> Iterator[tuple[int, dict | SampleError]]:
    """The rows with their lines, or where there are none with their numbers, and with images as they are stored."""
    if is_json(path):
        yield from read_json_rows(Path(find_files(path)[0]))
    elif is_shards(path):
        yield from enumerate(chain.from_iterable(map(read_shard_rows, find_files(path))))
    else:
        # datasets would stop at the first image that it cannot decode.
        yield from enumerate(undecoded(load_rows(path, split=split)))


def check_row(
    row: int, line: int, content: dict | SampleError, image_folder: str | None, rules: ImageRules
) -> list[CheckedSample]:
    """Reads the samples of one row."""
    if isinstance(content, SampleError):
        return [CheckedSample(row, line, f"row {row}", [content])]
    row_id = next((str(content[name]) for name in ("__key__", "id") if content.get(name) is not None), None)
    try:
        parts = split_captions(read_webdataset(content) if "__key__" in content else content)
    except SampleError as error:
        return [CheckedSample(row, line, row_id or f"row {row}", [error])]
    checked = []
    for part in parts:
        one = CheckedSample(row, line, row_id or f"row {row}", [])
        try:
            sample = read_sample(part, image_folder)
            for image in sample["images"]:
                rules.check(image)
            contents = list(map(content_of, sample["images"]))
            one.images = dict(zip(map(fingerprint, contents), sample["images"], strict=True))
            one.content = fingerprint([contents, sample["messages"]])
        except SampleError as error:
            one.faults.append(error)
        except Exception as error:  # nonsense fails in as many ways as there is nonsense
            one.faults.append(SampleError("malformed", f"it makes no sense ({type(error).__name__}: {error})"))
        else:
            one.sample, one.name = sample, sample["id"]
            filled = [name for name, value in part.items() if not is_empty(value)]
            one.unused_fields = unused_fields(filled, form_of(part))
            one.id = None if checked else row_id  # a row's captions share its id
        checked.append(one)
    return checked


def content_of(image: Any) -> Any:
    """An image without the name that a dataset gives its bytes."""
    return image["bytes"] if isinstance(image, dict) and isinstance(image.get("bytes"), bytes) else image


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


def find_token_faults(one: CheckedSample, encoder: ConversationEncoder, max_length: int | None) -> list[SampleError]:
    if not one.sample:
        return []
    try:
        encoded = encoder.encode(one.sample)
    except SampleError as error:
        return [SampleError(error.fault, str(error))]  # a new one, since the caught one holds on to an image
    num_tokens = len(encoded["input_ids"])
    if max_length is None or num_tokens <= max_length:
        return []
    advice = encoder.advise(sum(encoded["num_image_tokens"]))
    return [SampleError("too long", f"{num_tokens} tokens, more than {max_length}{advice}")]


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
    Writes the rows without faults, unchanged and in order, in the format of the data themselves, atomically.

    Args:
        report ([`Report`]):
            What [`check_file`] found in the data, which are read a second time.
        output (`str` or `os.PathLike`):
            The new file: a json for a json, one tar for shards, and for a dataset a `.parquet`, or else the new folder
            of `Dataset.save_to_disk`.

    Raises:
        `FileExistsError`: `output` exists; it is not touched.
        `ValueError`: there is no row without a fault.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists: remove it or name another one.")
    if len(report.faulty_rows) == report.num_rows:
        raise ValueError(f"{report.path} has no clean sample: {output} is not written.")
    output.parent.mkdir(parents=True, exist_ok=True)
    if is_json(report.path):
        with atomic_file(output) as unfinished:
            write_json(unfinished, clean_rows(report), output.suffix.lower())
    elif is_shards(report.path):
        with atomic_file(output) as unfinished:
            write_shard_rows(unfinished, clean_rows(report))
    else:
        clean = [row for row in range(report.num_rows) if row not in report.faulty_rows]
        dataset = load_rows(report.path, split=report.split).select(clean)
        if output.suffix.lower() == ".parquet":
            with atomic_file(output) as unfinished:
                dataset.to_parquet(unfinished)
        else:
            with atomic_folder(output) as folder:
                dataset.save_to_disk(str(folder))


def clean_rows(report: Report) -> Iterator[dict[str, Any]]:
    for row, (_, content) in enumerate(read_rows(report.path, report.split)):
        if row not in report.faulty_rows:
            yield content


def write_json(path: Path, rows: Iterator[dict[str, Any]], suffix: str) -> None:
    begin, between, end = ("", "\n", "\n") if suffix == ".jsonl" else ("[\n", ",\n", "\n]\n")
    # A lone surrogate, in a field that training does not use, is written as the escape that it was.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for row in rows:
            file.write(begin + json.dumps(row, ensure_ascii=False))
            begin = between
        file.write(end)

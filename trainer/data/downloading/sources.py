# SPDX-License-Identifier: Apache-2.0
"""What can be downloaded and from where: a YAML file of data sets, checked when it is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml

from trainer.option_values import Range, check_values


ARCHIVES = (".zip", ".tar")
AT_LEAST_1 = Range("of at least 1", lambda number: number >= 1)


@dataclass(frozen=True)
class DataFile:
    """
    A file, and for an archive the folder that it is unpacked to.

    Args:
        path (`str`): Where it goes, relative to the folder of all data.
        urls (`list[str]`): Its addresses, which are tried in this order.
        size (`int`): Its number of bytes.
        rounded (`bool`, *optional*, defaults to `False`): Whether the size is only good for planning.
        sha256 (`str`, *optional*): The checksum of its content, in hexadecimal.
        folder (`str`, *optional*): The folder, relative to that of all data, that an archive is unpacked to.
        unpacked (`int`, *optional*): The bytes that the content takes; as many as the archive when left out.
    """

    path: str
    urls: list[str]
    size: Annotated[int, AT_LEAST_1]
    rounded: bool = False
    sha256: str | None = None
    folder: str | None = None
    unpacked: Annotated[int | None, AT_LEAST_1] = None

    def __post_init__(self) -> None:
        check_values(self)
        check_inside("path", self.path)
        if not self.urls or not all(re.fullmatch(r"https?://[^/\s]+/\S+", url) for url in self.urls):
            raise ValueError(f"`urls` is {self.urls!r:.80}: give addresses that begin with http:// or https://.")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"`sha256` is {self.sha256!r:.80}: give 64 hexadecimal digits in small letters.")
        if self.folder is not None:
            check_inside("folder", self.folder)
            if not self.path.endswith(ARCHIVES):
                raise ValueError(f"`folder` is for archives, and {self.path} does not end in .zip or .tar.")


@dataclass(frozen=True)
class DataSet:
    """
    Files that are used together.

    Args:
        name (`str`): What `--only` calls it.
        purpose (`str`): `training` or `evaluation`.
        what (`str`): What it is, in a few words.
        licence (`str`): Its licence or terms, in a few words.
        terms (`str`): Where these are published.
        files (`list[DataFile]`): What is fetched; empty where all is done by hand.
        links (`dict[str, str]`, *optional*): Further places of what is fetched, each with the place that it links to.
        by_hand (`str`, *optional*): A sentence that says what else is to be done, and where.
    """

    name: str
    purpose: Literal["training", "evaluation"]
    what: str
    licence: str
    terms: str
    files: list[DataFile]
    links: dict[str, str] = field(default_factory=dict)
    by_hand: str | None = None

    def __post_init__(self) -> None:
        check_values(self)
        if not re.fullmatch("[a-z0-9_]+", self.name):
            raise ValueError("a name has small letters, digits and _ alone.")
        for place in (*self.links, *self.links.values()):
            check_inside("links", place)
        if not self.files and self.by_hand is None:
            raise ValueError("there is nothing to fetch: give `files`, or `by_hand`.")


def check_inside(name: str, path: str) -> None:
    """Raises `ValueError` for a path that is not relative and below the folder of all data."""
    parts = PurePosixPath(path)
    if not parts.parts or parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"`{name}` is {path!r:.80}: give a relative path without `..`.")


def read_sources(path: Path) -> list[DataSet]:
    """
    Reads a file of data sets.

    Args:
        path (`Path`): YAML, a mapping of names to the fields of [`DataSet`].

    Raises:
        `ValueError`: the file cannot be read, or something in it is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--sources {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"--sources {path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"--sources {path} must be a mapping of names to data sets.")
    datasets = []
    for name, fields in content.items():
        try:
            files = [make(DataFile, file) for file in as_list(as_mapping(fields).get("files", []))]
            datasets.append(make(DataSet, {**fields, "name": name, "files": files}))
        except ValueError as error:
            raise ValueError(f"--sources {path}, {name}: {error}") from error
    return datasets


def make(kind: type, fields: Any) -> Any:
    """A dataclass of fields that a file gives."""
    fields = as_mapping(fields)
    known = kind.__dataclass_fields__
    unknown = [str(name) for name in fields if name not in known]
    if unknown:
        raise ValueError(f"`{unknown[0]}` is unknown: choose from {', '.join(known)}.")
    try:
        return kind(**fields)
    except TypeError as error:  # names the missing fields
        raise ValueError(f"{str(error).partition('() ')[2]}.") from error


def as_mapping(value: Any) -> Mapping:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.80} must be a mapping of fields.")
    return value


def as_list(value: Any) -> list:
    if not isinstance(value, list):
        raise ValueError(f"`files` is {value!r:.80}: give a list.")
    return value


def choose(datasets: list[DataSet], only: str | None) -> list[DataSet]:
    """
    The data sets of a comma-separated list of names, of which `training` and `evaluation` are several.

    Args:
        datasets (`list[DataSet]`): All of them.
        only (`str`, *optional*): The list; `None` for all.

    Raises:
        `ValueError`: one of the names is none of theirs.
    """
    if only is None:
        return datasets
    names = [name.strip() for name in only.split(",")]
    known = {name for dataset in datasets for name in (dataset.name, dataset.purpose)}
    for name in names:
        if name not in known:
            choices = ", ".join(["training", "evaluation", *(dataset.name for dataset in datasets)])
            raise ValueError(f"--only names {name!r}: choose from {choices}.")
    return [dataset for dataset in datasets if dataset.name in names or dataset.purpose in names]

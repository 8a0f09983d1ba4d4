# SPDX-License-Identifier: Apache-2.0
"""Webdataset shards; datasets' own reader wants all samples to be of the same files, and to fit its first five."""

import os
import tarfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import groupby
from typing import Any

from .image_places import is_image_file


MAX_BYTES = 2**29  # of one file: sparse ones can claim any size in a small tar


def read_shard_rows(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """
    Reads a tar's samples, its files grouped by their names: `photos/7.0.jpg` is the file `0.jpg` of sample `photos/7`.

    Yields:
        `dict` with `__key__` and the files by their extensions: images as datasets keeps them, others as bytes.

    Raises:
        `ValueError`: names the tar that is broken or compressed, or the file in it that is too large.
    """
    try:
        with tarfile.open(path, mode="r|") as shard:  # a compressed one could be of any size
            files = filter(tarfile.TarInfo.isfile, shard)
            for key, members in groupby(files, key=lambda file: split_name(file)[0]):
                row = {"__key__": key}
                for file in members:
                    if file.size > MAX_BYTES:
                        raise ValueError(f"{path}, sample {key}: {file.name} has more than {MAX_BYTES:,} bytes.")
                    content = shard.extractfile(file).read()
                    named = {"bytes": content, "path": file.name}  # as datasets keeps images
                    row[split_name(file)[1]] = named if is_image_file(file.name) else content
                yield row
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path} cannot be read as an uncompressed tar file: {error}.") from error


def write_shard_rows(path: str | os.PathLike, rows: Iterable[dict[str, Any]]) -> None:
    """Writes rows of [`read_shard_rows`] to a tar."""
    with tarfile.open(path, mode="w") as shard:
        for row in rows:
            for extension, file in row.items():
                if extension == "__key__":
                    continue
                content = file["bytes"] if isinstance(file, dict) else file
                member = tarfile.TarInfo(f"{row['__key__']}.{extension}")
                member.size = len(content)
                shard.addfile(member, BytesIO(content))


def split_name(file: tarfile.TarInfo) -> tuple[str, str]:
    folder, name = os.path.split(file.name)
    key, _, extension = name.partition(".")
    return os.path.join(folder, key), extension

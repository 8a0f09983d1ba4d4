# SPDX-License-Identifier: Apache-2.0
"""Downloads data sets into a folder: plans the disk space, fetches, checks and unpacks one file after the other."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import requests

from modeling_langbridge.utils.outputs import locked

from .fetching import WrongContent, check_content, fetch, open_session
from .record import DownloadRecord
from .sources import DataFile, DataSet
from .unpacking import unpack


def download(datasets: list[DataSet], output_dir: Path, keep_archives: bool = False) -> Iterator[str]:
    """
    Downloads data sets. What is there already is checked or left as it is, and a broken download goes on.

    Args:
        datasets (`list[DataSet]`): What is downloaded; a file of several is fetched once.
        output_dir (`Path`): The folder of all data, which gets `downloads.json` as well.
        keep_archives (`bool`, *optional*, defaults to `False`): Whether archives stay beside what was in them.

    Yields:
        `str`: what is done, a line for each step.

    Raises:
        `OSError`: the disk has no room, nothing can be written, or a file cannot be fetched.
        `ValueError`: a file that is there, or an archive, is not the one that was meant.
    """
    files = list({file.path: file for dataset in datasets for file in dataset.files}.values())
    absent = [file for file in files if not is_there(file, output_dir)]
    need = space_needed(absent, output_dir, keep_archives)
    above = next(folder for folder in (output_dir.resolve(), *output_dir.resolve().parents) if folder.exists())
    free = shutil.disk_usage(above).free
    if need > free:
        raise OSError(
            f"--output_dir {output_dir} has {gigabytes(free)} free, and the download needs {gigabytes(need)}: make "
            "room, name another folder, or choose less with --only."
        )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    except OSError as error:
        raise OSError(
            f"--output_dir {output_dir} cannot be written ({error.strerror}): name another place."
        ) from error
    with locked(output_dir, output_dir / ".downloads.lock"), open_session() as session:
        record = DownloadRecord(output_dir / "downloads.json")
        yield f"{len(absent)} of {len(files)} files are missing; they need {gigabytes(need)} of {gigabytes(free)}."
        for file in files:
            yield from provide(file, output_dir, keep_archives, record, session)
        for dataset in datasets:
            for place, target in dataset.links.items():
                link(output_dir / place, output_dir / target)
    for dataset in datasets:
        if dataset.by_hand is not None:
            yield f"{dataset.name}, by hand: {dataset.by_hand}"


def is_there(file: DataFile, output_dir: Path) -> bool:
    """Whether nothing of a file needs to be fetched. A folder is complete: it appears when everything is in it."""
    return (output_dir / file.path).is_file() or (file.folder is not None and has_files(output_dir / file.folder))


def has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def space_needed(files: list[DataFile], output_dir: Path, keep_archives: bool) -> int:
    """The bytes that files still take, when they take most: what is unpacked, and the archives beside it."""
    archives = [file.size for file in files if file.folder is not None]
    plain = [file.size for file in files if file.folder is None]
    unpacked = [file.unpacked or file.size for file in files if file.folder is not None]
    parts = [output_dir / f"{file.path}.part" for file in files]
    begun = sum(part.stat().st_size for part in parts if part.is_file())
    at_once = sum(archives) if keep_archives else max(archives, default=0)
    return max(sum(plain) + sum(unpacked) + at_once - begun, 0)


def provide(
    file: DataFile, output_dir: Path, keep_archives: bool, record: DownloadRecord, session: requests.Session
) -> Iterator[str]:
    """Sees to it that one file, or the folder of an archive, is there."""
    path, folder = output_dir / file.path, output_dir / (file.folder or file.path)
    if file.folder is not None and has_files(folder):
        yield f"{folder} is there already."
        return
    if path.is_file():
        try:
            sha256 = check_content(path, file, record)
        except WrongContent as error:
            raise ValueError(f"{path} {error}: remove it, and the same command fetches it again.") from error
        if file.path not in record.files:  # put there by hand
            record.finish(file.path, url=None, size=path.stat().st_size, sha256=sha256, date=time.strftime("%Y-%m-%d"))
        yield f"{path} is there already."
    else:
        fetch(file, path, record, session)
        arrived = record.files[file.path]
        yield f"{path} is fetched: {arrived['size']:,} bytes, SHA-256 {arrived['sha256']}."
    if file.folder is not None:
        yield f"{folder} has the {unpack(path, folder):,} files of {path.name}."
        if not keep_archives:
            path.unlink()


def link(place: Path, target: Path) -> None:
    """Makes another place of a folder or file, by a link that stays right when all is moved together."""
    if target.exists() and not os.path.lexists(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(target, place.parent))


def gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"

# SPDX-License-Identifier: Apache-2.0
"""Unpacks archives of strangers: whole or not at all, and never outside the folder that they are for."""

import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from modeling_langbridge.utils.files import atomic_folder


def unpack(archive: Path, folder: Path) -> int:
    """
    Unpacks a zip or tar archive to a folder that does not exist yet.

    Folders of the archive that hold all the rest are left out: `train2017/1.jpg`, `train2017/2.jpg` … become `1.jpg`,
    `2.jpg` … in the folder.

    Args:
        archive (`Path`): The archive.
        folder (`Path`): The folder, which appears when everything is in it.

    Returns:
        `int`: the number of files.

    Raises:
        `ValueError`: the archive is damaged or empty, or names a place outside, a link or a device.
        `OSError`: the folder exists, cannot be written, or the disk has no room for it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with opened(archive) as (package, members):
            places = {member: place_of(member, archive) for member in members}
            if not places:
                raise ValueError(f"{archive} has no files: remove it and run the command again.")
            common = os.path.commonpath([place.parent for place in places.values()])
            need, free = sum(map(size_of, members)), shutil.disk_usage(folder.parent).free
            if need > free:
                raise OSError(f"{folder} needs {need:,} bytes and {free:,} are free: make room and run it again.")
            with atomic_folder(folder) as unfinished:
                for member, place in places.items():
                    write(package, member, str(place.relative_to(common)), unfinished)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} is damaged ({error}): remove it and run the command again.") from error
    return len(places)


@contextmanager
def opened(archive: Path) -> Iterator[tuple[Any, list]]:
    """An archive and its files; not the notes that macOS leaves."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as package:
            members = package.infolist()
            yield package, [one for one in members if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    else:
        with tarfile.open(archive) as package:
            yield package, [one for one in package if not one.isdir()]


def place_of(member: zipfile.ZipInfo | tarfile.TarInfo, archive: Path) -> PurePosixPath:
    """Where in the archive a member lies, if that is safe."""
    name = member.filename if isinstance(member, zipfile.ZipInfo) else member.name
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\\" in name:
        raise ValueError(f"{archive} is not safe to unpack: it names {name!r:.80}, which may lie outside its folder.")
    if isinstance(member, tarfile.TarInfo) and not member.isfile():
        raise ValueError(f"{archive} is not safe to unpack: {name!r:.80} is a link or a device.")
    return place


def size_of(member: zipfile.ZipInfo | tarfile.TarInfo) -> int:
    return member.file_size if isinstance(member, zipfile.ZipInfo) else member.size


def write(package: Any, member: zipfile.ZipInfo | tarfile.TarInfo, name: str, folder: Path) -> None:
    """Writes one member under another name."""
    if isinstance(member, zipfile.ZipInfo):
        member.filename = name
        package.extract(member, folder)
    else:
        package.extract(member.replace(name=name, deep=False), folder, filter="data")

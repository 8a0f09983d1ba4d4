# SPDX-License-Identifier: Apache-2.0
"""Archives become a folder with everything in it, or none; and nothing outside that folder."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.data.downloading.unpacking import unpack


FILES = {"train2017/1.jpg": b"one", "train2017/more/2.jpg": b"two"}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as package:
        for name, content in files.items():
            package.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes], **fields) -> Path:
    with tarfile.open(path, "w") as package:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            package.addfile(member, io.BytesIO(content))
    return path


KINDS = pytest.mark.parametrize(("write", "suffix"), [(write_zip, ".zip"), (write_tar, ".tar")], ids=["zip", "tar"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@KINDS
def test_folders_that_hold_everything_are_left_out(tmp_path, write, suffix):
    archive = write(tmp_path / f"a{suffix}", FILES)
    assert unpack(archive, tmp_path / "coco" / "train2017") == 2
    assert contents(tmp_path / "coco") == {"train2017/1.jpg": b"one", "train2017/more/2.jpg": b"two"}
    assert archive.exists()


@KINDS
def test_an_archive_of_files_without_a_folder_is_unpacked_as_it_is(tmp_path, write, suffix):
    assert unpack(write(tmp_path / f"a{suffix}", {"1.jpg": b"one", "more/2.jpg": b"two"}), tmp_path / "all") == 2
    assert contents(tmp_path / "all") == {"1.jpg": b"one", "more/2.jpg": b"two"}


def test_folders_in_an_archive_and_the_notes_of_macos_do_not_count(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"mm-vet/": b"", **FILES, "__MACOSX/train2017/._1.jpg": b"note"})
    unpack(archive, tmp_path / "all")
    assert contents(tmp_path / "all") == {"1.jpg": b"one", "more/2.jpg": b"two"}


UNSAFE = ["../escaped.jpg", "a/../../escaped.jpg", "/tmp/langbridge_escaped.jpg", "..\\escaped.jpg"]


@KINDS
@pytest.mark.parametrize("name", UNSAFE)
def test_a_place_outside_is_refused_and_nothing_is_unpacked(tmp_path, write, suffix, name):
    archive = write(tmp_path / f"a{suffix}", {**FILES, name: b"out"})
    with pytest.raises(ValueError, match="is not safe to unpack: it names .*escaped.jpg', which may lie outside"):
        unpack(archive, tmp_path / "deep" / "all")
    assert contents(tmp_path).keys() == {archive.name}
    assert not Path("/tmp/langbridge_escaped.jpg").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_is_refused(tmp_path, kind):
    archive = write_tar(tmp_path / "a.tar", {"1.jpg": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(ValueError, match=r"'1\.jpg' is a link or a device"):
        unpack(archive, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_damaged_member_leaves_no_folder(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"good.jpg": b"good", "bad.jpg": b"spoiled"})
    archive.write_bytes(archive.read_bytes().replace(b"spoiled", b"spoilt!"))
    with pytest.raises(ValueError, match=r"a\.zip is damaged \(Bad CRC-32 .*\): remove it and run the command again"):
        unpack(archive, tmp_path / "all")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_cut_tar_leaves_no_folder(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {"1.jpg": b"one" * 5000, "2.jpg": b"two" * 5000})
    archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"a\.tar is damaged \(unexpected end of data\)"):
        unpack(archive, tmp_path / "all")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@KINDS
def test_an_archive_without_files_is_refused(tmp_path, write, suffix):
    with pytest.raises(ValueError, match="has no files"):
        unpack(write(tmp_path / f"a{suffix}", {}), tmp_path / "all")


def test_what_does_not_fit_is_refused_before_any_of_it_is_written(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5))
    with pytest.raises(OSError, match="all needs 6 bytes and 5 are free: make room"):
        unpack(archive, tmp_path / "all")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_folder_that_has_something_is_left_as_it_is(tmp_path):
    archive = write_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        unpack(archive, tmp_path / "all")
    assert contents(tmp_path / "all") == {"mine.txt": b"mine"}

# SPDX-License-Identifier: Apache-2.0
"""What is written: complete or absent, where it was asked for, by one writer, with an ordinary file's permissions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from safetensors.torch import save_file

from modeling_langbridge.utils.files import atomic_file, atomic_folder
from modeling_langbridge.utils.outputs import locked


def write_file(path: Path) -> None:
    with atomic_file(path) as unfinished:
        save_file({"x": torch.zeros(1)}, unfinished)


def write_folder(path: Path) -> None:
    with atomic_folder(path) as unfinished:
        (unfinished / "below").mkdir(mode=0o700)
        save_file({"x": torch.zeros(1)}, unfinished / "below" / "x.safetensors")


def permissions(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, "0o644", "0o755"), (0o007, "0o660", "0o770")])
def test_permissions_are_those_that_the_umask_leaves(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        write_file(tmp_path / "file")
        write_folder(tmp_path / "folder")
    finally:
        os.umask(before)
    assert permissions(tmp_path / "file") == permissions(tmp_path / "folder" / "below" / "x.safetensors") == file
    assert permissions(tmp_path / "folder") == permissions(tmp_path / "folder" / "below") == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("target", ["there", "absent"])
def test_of_a_symlink_the_target_is_written_and_the_link_stays(tmp_path, target):
    (tmp_path / "elsewhere").mkdir()
    for name, write in (("file", write_file), ("folder", write_folder)):
        aim = tmp_path / "elsewhere" / name
        if target == "there":
            aim.touch() if name == "file" else aim.mkdir()
        (tmp_path / name).symlink_to(aim)
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink() and aim.exists()
    assert (tmp_path / "elsewhere" / "file").stat().st_size and (tmp_path / "folder" / "below").is_dir()
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


def test_folders_above_are_made_with_what_is_written_and_not_before(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a" / "b" / "c"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    write_folder(tmp_path / "a" / "b" / "c")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("write", "place", "sentence"),
    [
        (write_file, "folder", "folder is a folder: name a file"),
        (write_file, "absent/file", r"absent/file cannot be written \(No such file or directory\)"),
        (write_file, "file/below", r"file/below cannot be written \(Not a directory\)"),
        (write_file, "/proc/file", "/proc/file cannot be written"),
        (write_folder, "full", "full exists and is not an empty folder: remove it or name another one"),
        (write_folder, "link", "link exists and is not an empty folder"),
        (write_folder, "file", "file exists and is not an empty folder"),
        (write_folder, "file/below", r"file/below cannot be written \(Not a directory\): name another place"),
        (write_folder, "/proc/a/b", "/proc/a/b cannot be written"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, write, place, sentence, monkeypatch):
    for name in ("folder", "full/below"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("full")
    monkeypatch.setattr(sys.modules[__name__], "save_file", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(OSError, match=sentence):
        write(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "full", "link"]


def test_a_second_writer_of_the_same_folder_is_refused_at_once(tmp_path):
    with atomic_folder(tmp_path / "out"):
        with pytest.raises(OSError, match="Another run is writing to .*out: wait until it ends, or name another"):
            write_folder(tmp_path / "out")
        write_folder(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_lock_goes_with_the_process_that_holds_it(tmp_path):
    code = """
import sys
from pathlib import Path
from filelock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "lock"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(OSError, match="Another run"), locked(tmp_path, tmp_path / "lock"):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path, tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()

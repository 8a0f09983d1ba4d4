# SPDX-License-Identifier: Apache-2.0
"""Files are read whole or refused in one sentence, and written atomically."""

import pytest
import torch
from safetensors.torch import save_file

from modeling_langbridge.utils.files import atomic_file, read_json, read_safetensors


def test_a_file_that_was_not_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "preview.md"
    path.write_text("old")
    with pytest.raises(OSError), atomic_file(path) as unfinished:
        unfinished.write_text("ne")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_whole_files_are_read(tmp_path):
    (tmp_path / "file.json").write_text('{"name": "Ġdog"}', encoding="utf-8")
    save_file({"weight": torch.ones(2)}, tmp_path / "file.safetensors")
    assert read_json(tmp_path / "file.json") == {"name": "Ġdog"}
    assert read_safetensors(tmp_path / "file.safetensors")["weight"].tolist() == [1, 1]


@pytest.mark.parametrize(("read", "name"), [(read_json, "a.json"), (read_safetensors, "a.safetensors")])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b""])
def test_missing_and_damaged_files_are_named(tmp_path, read, name, content):
    with pytest.raises(FileNotFoundError, match=f"There is no file .*{name}"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged.*: save or download it again"):
        read(tmp_path / name)

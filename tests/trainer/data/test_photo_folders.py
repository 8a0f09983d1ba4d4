# SPDX-License-Identifier: Apache-2.0
"""Broken photos of a folder are named and left out; a folder without photos is refused."""

import logging

import pytest
from tiny_parts import make_image

from trainer.data.photo_folders import find_photos, leave_out_broken


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "c.png"):
        make_image().save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


def test_the_broken_are_named_and_the_rest_is_used_in_order(folder, caplog):
    photos = find_photos(folder, "--photos")
    with caplog.at_level(logging.WARNING):
        assert leave_out_broken(photos, "--photos") == [str(folder / "a.png"), str(folder / "c.png")]
    assert "1 of the 3 images of --photos are left out" in caplog.text and "b.png" in caplog.text


def test_nothing_is_said_where_all_are_whole(folder, caplog):
    (folder / "b.png").unlink()
    assert len(leave_out_broken(find_photos(folder, "--photos"), "--photos")) == 2 and not caplog.text


def test_none_that_can_be_opened_is_an_error(folder):
    with pytest.raises(ValueError, match="None of the 1 images of --photos can be opened: .*b.png"):
        leave_out_broken([str(folder / "b.png")], "--photos")


@pytest.mark.parametrize("name", ["absent", "notes.txt"])
def test_what_is_no_folder_is_refused_by_option(folder, name):
    with pytest.raises(ValueError, match=f"--album .*{name} must be a folder"):
        find_photos(folder / name, "--album")

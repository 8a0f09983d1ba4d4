# SPDX-License-Identifier: Apache-2.0
"""Prepared rows are found again by the same code, data and options, and by no others."""

import json
import os
from pathlib import Path

import pytest
from datasets import Dataset
from tiny_parts import make_image

from trainer import load_training_data
from trainer.data import dataset_rows, sources
from trainer.data.reader_version import hash_code


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def samples(tmp_path) -> Path:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps({"image": "red.png", "caption": "a red ball"}))
    make_image("red").save(tmp_path / "red.png")
    return path


def caption(rows) -> str:
    return rows[0]["messages"][-1]["content"][0]["text"]


def in_capitals(row, image_folder=None):
    """The reader of a later version."""
    return read_sample({**row, "caption": row["caption"].upper()}, image_folder)


read_sample = sources.read_sample


def test_rows_that_another_version_of_the_code_prepared_are_read_again(samples, monkeypatch):
    assert caption(load_training_data(str(samples))) == "a red ball"
    monkeypatch.setattr(sources, "read_sample", in_capitals)
    assert caption(load_training_data(str(samples))) == "a red ball"  # prepared, and known by the version
    monkeypatch.setattr(sources, "READER_VERSION", "later")
    assert caption(load_training_data(str(samples))) == "A RED BALL"


def test_what_is_made_of_rows_is_kept_under_the_version_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the images of a saved dataset are looked for
    make_image("red").save("red.png")
    Dataset.from_list([{"image": "red.png", "captions": ["a red ball", "a ball"]}]).save_to_disk(tmp_path / "saved")

    def split_anew(row):
        return [{"image": row["image"], "caption": caption.upper()} for caption in row["captions"]]

    def captions():
        return list(dataset_rows.as_rows(load_training_data(str(tmp_path / "saved")))["caption"])

    assert captions() == ["a red ball", "a ball"]
    monkeypatch.setattr(dataset_rows, "split_captions", split_anew)
    monkeypatch.setattr(dataset_rows, "READER_VERSION", "later")
    assert captions() == ["A RED BALL", "A BALL"]


def test_a_file_of_the_same_time_but_another_size_or_place_is_another_file(samples, tmp_path, monkeypatch):
    first = load_training_data(str(samples))
    time = samples.stat().st_mtime_ns
    samples.write_text(json.dumps({"image": "red.png", "caption": "a redder ball"}))
    os.utime(samples, ns=(time, time))
    second = load_training_data(str(samples))
    assert (caption(first), caption(second)) == ("a red ball", "a redder ball")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "samples.jsonl").write_text(json.dumps({"image": "red.png", "caption": "a green balls"}))
    os.utime(elsewhere / "samples.jsonl", ns=(time, time))
    monkeypatch.chdir(tmp_path)
    assert caption(load_training_data("samples.jsonl", image_folder=str(tmp_path))) == "a redder ball"
    monkeypatch.chdir(elsewhere)
    assert caption(load_training_data("samples.jsonl", image_folder=str(tmp_path))) == "a green balls"


def test_the_version_is_another_where_a_character_of_the_code_is(tmp_path):
    files = [tmp_path / "one.py", tmp_path / "two.py"]
    for file in files:
        file.write_text("x = 1\n")
    before = hash_code(files)
    assert hash_code(files) == before
    files[1].write_text("x = 2\n")
    assert hash_code(files) != before

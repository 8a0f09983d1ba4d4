# SPDX-License-Identifier: Apache-2.0
"""The flags for data from strangers are those of load_training_data in every script that trains."""

import json
from pathlib import Path

import pytest
from paths import SCRIPTS
from refusals import assert_refused
from tiny_parts import make_image


COMMON = ["--output_dir", "out", "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
TRAIN = ["--model", "./no/model", *COMMON]
GROUND = ["--vision_tower", "./no/model", *COMMON]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "work"
    folder.mkdir()
    for path in ("a.png", "work/a.png"):
        make_image().save(tmp_path / path)
    for name, images in (
        ("outside", ["../a.png"]),
        ("url", ["http://127.0.0.1:9/a.png"]),
        ("gone", ["a.png", "b.png"]),
    ):
        rows = [{"image": image, "caption": "a dog"} for image in images]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize(("script", "options"), [("train.py", TRAIN), ("ground.py", GROUND)], ids=["train", "ground"])
@pytest.mark.parametrize(
    ("name", "flag", "sentence"),
    [
        ("outside", ["--allow_paths_outside"], r"outside\.json, sample \S*a\.png: .*set .*`allow_paths_outside`"),
        ("url", ["--allow_image_urls"], r"url\.json, sample \S*a\.png: .* set `allow_image_urls`"),
        (
            "gone",
            ["--bad_images", "skip"],
            r"gone\.json, sample \S*b\.png: .* does not exist: .* set `bad_images` to skip",
        ),
    ],
)
def test_the_script_refuses_images_without_the_flag_and_reads_them_with_it(
    folder, script, options, name, flag, sentence
):
    arguments = ["--dataset", f"{name}.json", *options]
    assert_refused(SCRIPTS / script, arguments, sentence, folder)
    assert_refused(
        SCRIPTS / script, [*arguments, *flag], r"There is no folder \./no/model", folder
    )  # the next thing that is wrong

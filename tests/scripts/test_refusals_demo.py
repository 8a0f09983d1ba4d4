# SPDX-License-Identifier: Apache-2.0
"""What the demos and the console command refuse, each in one sentence, leaving everything as it was."""

import os

import pytest
from paths import SCRIPTS
from PIL import Image
from refusals import assert_refused
from tiny_parts import make_image


RED = ["--photos", "red.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, and what looks like some: one folder for all, as each refusal leaves it as it was."""
    tmp_path = tmp_path_factory.mktemp("photos")
    make_image("red").save(tmp_path / "red.png")
    content = (tmp_path / "red.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "album").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--photos", "absent.jpg"], "The image absent.jpg does not exist"),
        (["--photos", "red.png", "absent.jpg"], "The image absent.jpg does not exist"),
        (["--photos", "red.png, cut.png"], "The image red.png, cut.png does not exist"),
        (["--photos", "album"], "The image album is no file"),
        (["--photos", "album/"], "The image album is no file"),
        (["--photos", "pipe.png"], "The image pipe.png is no file"),
        (["--photos", "red.png/below.png"], "The image red.png/below.png does not exist"),
        (["--photos", "https://example.org/dog.jpg"], "The image https:/example.org/dog.jpg does not exist"),
        (["--photos", "cut.png"], "The image cut.png cannot be decoded"),
        (["--photos", "red.png", "cut.png"], "The image cut.png cannot be decoded"),
        (["--photos", "empty.jpg"], "The image empty.jpg is of no format that can be decoded"),
        (["--photos", "text.jpg"], "The image text.jpg is of no format that can be decoded"),
        (["--photos", "drawing.svg"], "The image drawing.svg is of no format that can be decoded"),
        (["--photos", "program.eps"], "The image program.eps is of no format that can be decoded"),
        (["--photos", "huge.png"], "The image huge.png has 9000 x 9000 pixels, .*: give a smaller copy"),
        (["--photos", ""], "The image . is no file"),
        (["--photos", "red.png", "red.png"], "--photos names red.png twice: name it once"),
        (["--photos", "red.png", "./red.png"], "--photos names red.png twice: name it once"),
        (["--photos", "red.png", "album/../red.png"], "--photos names red.png twice: name it once"),
        (["--photos"], "argument --photos: expected at least one argument"),
        (["red.png"], "unrecognized arguments: red.png"),
        ([*RED, "--output_dir", "mine"], "mine is no output of this script, and not an empty folder: name another"),
        ([*RED, "--output_dir", "mine/thesis.txt"], "thesis.txt is no output of this script"),
        ([*RED, "--output_dir", "mine/thesis.txt/demo"], r"thesis.txt/demo cannot be written \(Not a directory\)"),
        ([*RED, "--output_dir", "other"], "other holds results of other settings, see other/settings.json"),
        ([*RED, "--output_dir"], "argument --output_dir: expected one argument"),
        (["--cache_dir"], "argument --cache_dir: expected one argument"),
        (["--accept_gemma_terms=yes"], "argument --accept_gemma_terms: ignored explicit argument 'yes'"),
        (["--accept-gemma-terms"], "unrecognized arguments: --accept-gemma-terms"),
        (["--quik"], "unrecognized arguments: --quik"),
        (["--seed", "0"], "unrecognized arguments: --seed 0"),
    ],
)
def test_a_demo_of_photos_that_cannot_be_is_refused(arguments, sentence, folder, monkeypatch):
    monkeypatch.setenv("LANGBRIDGE_CACHE", "red.png")  # what should have been refused ends there, and trains nothing
    assert_refused(SCRIPTS / "demo.py", arguments, sentence, folder)


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("demo_scenes", ["--output_dir", "mine"], "mine is no output of this script, and not an empty folder: name"),
        ("demo_scenes", ["--output_dir", "mine/thesis.txt"], "thesis.txt is no output of this script"),
        ("demo_scenes", ["--output_dir", "mine/thesis.txt/demo"], "thesis.txt"),
        ("demo_scenes", ["--output_dir", "other"], "other holds results of other settings, see other/settings.json"),
        ("demo_scenes", ["--seed", "zero"], "argument --seed: invalid int value: 'zero'"),
        ("demo_scenes", ["--output_dir"], "argument --output_dir: expected one argument"),
        ("demo_scenes", ["--quik"], "unrecognized arguments: --quik"),
        ("demo_scenes", [*RED], "unrecognized arguments: --photos red.png"),
        ("langbridge", [], "the following arguments are required: COMMAND"),
        ("langbridge", ["trian"], "argument COMMAND: invalid choice: 'trian'"),
        ("langbridge", ["demo-scenes"], "argument COMMAND: invalid choice: 'demo-scenes'"),
        ("langbridge", ["train.py"], "argument COMMAND: invalid choice: 'train.py'"),
        ("langbridge", ["langbridge"], "argument COMMAND: invalid choice: 'langbridge'"),
        ("langbridge", ["--config", "tiny.yaml"], "argument COMMAND: invalid choice: 'tiny.yaml'|required: COMMAND"),
    ],
)
def test_what_cannot_be_done_is_refused(script, arguments, sentence, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text("{}")
    assert_refused(SCRIPTS / f"{script}.py", arguments, sentence, tmp_path)

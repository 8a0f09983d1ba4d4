# SPDX-License-Identifier: Apache-2.0
"""Explaining photos from the shell: the files it leaves for a model, an adapter alone, two models and a LLaVA."""

import json
import re

import pytest
from in_process import run_script_here
from paths import SCRIPTS
from PIL import Image
from tiny_parts import make_image, save_language_model
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, LangBridgeProcessor, to_llava
from modeling_langbridge.reading.explaining import explain


SCRIPT = SCRIPTS / "explain.py"


@pytest.fixture(scope="module")
def saved(vision, text, tmp_path_factory):
    """A folder with a checkpoint, its adapter alone, another language model's checkpoint, and a stock LLaVA."""
    folder = tmp_path_factory.mktemp("models")
    model, processor = compose(vision, text, coefficient_activation="gated_softmax")
    other = compose(vision, save_language_model("llama3", folder / "llama3"), coefficient_activation="gated_softmax")
    llava = to_llava(*compose(vision, text, projector_hidden_size=32))
    for name, parts in (("model", (model, processor)), ("other", other), ("llava", llava)):
        for part in parts:
            part.save_pretrained(folder / name)
    adapter = LangBridgeAdapter.from_model(model, processor.tokenizer)
    adapter.save_pretrained(folder / "adapter")
    adapter.vocabulary.save(folder / "words.json")
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in ("red", "blue"):
        make_image(colour).save(folder / f"{colour}.png")
    return folder


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_each_photo_gets_a_page_a_picture_and_its_numbers(saved, photos, tmp_path, run_script):
    printed = run_script("--model", saved / "model", "--images", photos, "--output_dir", tmp_path / "out", "--top", 3)
    assert printed == f"{tmp_path / 'out'} holds the pages of 2 of 2 images.\n"
    suffixes = ("html", "json", "png")
    assert names(tmp_path / "out") == {f"{name}.{suffix}" for name in ("red", "blue") for suffix in suffixes}
    parts = (cls.from_pretrained(saved / "model") for cls in (LangBridgeForConditionalGeneration, LangBridgeProcessor))
    expected = explain(*parts, photos / "blue.png", top=3)
    content = json.loads((tmp_path / "out" / "blue.json").read_text())
    assert content.pop("image") == "blue.png" and content.pop("model") == str(saved / "model")
    assert content == json.loads(json.dumps(expected.to_dict()))
    assert Image.open(tmp_path / "out" / "blue.png").size == (960, 960)
    page = (tmp_path / "out" / "red.html").read_text()
    assert "<h1>red.png</h1>" in page and page.count("<section ") == 1


def test_broken_images_of_a_folder_are_named_and_the_others_done(saved, photos, tmp_path):
    (photos / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"0" * 50)
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("no image")
    arguments = ("--model", saved / "model", "--images", photos, "--output_dir", tmp_path / "out", "--layers", 0)
    result = run_script_here(SCRIPT, *arguments)
    assert result.returncode == 0 and "holds the pages of 2 of 4 images" in result.stdout
    reported = re.findall(r"left out: The image (\S+) (?:is of no format|cannot be decoded)", result.stderr)
    assert reported == [str(photos / "cut.jpg"), str(photos / "empty.png")]
    assert len(names(tmp_path / "out")) == 6


def test_an_adapter_alone_is_explained_with_its_tower(saved, vision, photos, tmp_path, run_script):
    where = ("--images", photos / "red.png", "--output_dir", tmp_path / "out")
    run_script("--adapter", saved / "adapter", "--vision_tower", vision, *where, "--words", "dog", "cat")
    content = json.loads((tmp_path / "out" / "red.json").read_text())
    assert [view["name"] for view in content["views"]] == ["coefficients"]
    assert {"dog", "cat"} <= content["views"][0]["maps"].keys() and content["energy"] is None


def test_two_models_are_compared_on_one_page(saved, photos, tmp_path, run_script):
    where = ("--images", photos / "red.png", "--output_dir", tmp_path / "out")
    run_script("--model", saved / "model", "--compare", saved / "other", *where)
    files = {"red.html", "red.json", "red.png", "red.compared.json", "red.compared.png"}
    assert names(tmp_path / "out") == files
    page = (tmp_path / "out" / "red.html").read_text()
    assert page.count("<section ") == 2 and f'<h2 title="{saved / "other"}">' in page
    assert json.loads((tmp_path / "out" / "red.compared.json").read_text())["model"] == str(saved / "other")


def test_a_stock_llava_is_explained_in_the_words_of_a_vocabulary(saved, photos, tmp_path, run_script):
    where = ("--images", photos / "red.png", "--output_dir", tmp_path / "out")
    printed = run_script("--model", saved / "llava", "--vocabulary", saved / "words.json", *where)
    assert "span 32 of the 32 dimensions" in printed
    content = json.loads((tmp_path / "out" / "red.json").read_text())
    assert len(content["views"]) == 4 and "not identifiable" in content["notes"][0]


def test_images_of_one_name_do_not_overwrite_each_other_and_odd_names_are_text(saved, photos, tmp_path, run_script):
    odd = tmp_path / "<img src=x onerror=alert(1)>.png"
    for path in (tmp_path / "red.jpg", odd):
        make_image().save(path)
    images = ("--images", photos / "red.png", tmp_path / "red.jpg", odd, photos / "red.png")
    run_script("--model", saved / "model", *images, "--output_dir", tmp_path / "out", "--layers", 0)
    assert {name for name in names(tmp_path / "out") if name.endswith("html")} == {
        "red.html",
        "red_.html",
        "<img src=x onerror=alert(1)>.html",
    }
    assert "<h1>red.jpg</h1>" in (tmp_path / "out" / "red_.html").read_text()
    page = (tmp_path / "out" / "<img src=x onerror=alert(1)>.html").read_text()
    assert "<h1>&lt;img src=x onerror=alert(1)&gt;.png</h1>" in page and "<img src=x" not in page

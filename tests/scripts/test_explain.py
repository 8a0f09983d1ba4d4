# SPDX-License-Identifier: Apache-2.0
"""Explaining photos from the shell: the files it leaves for a model, an adapter alone, two models and LLaVAs."""

import json
import re
from time import perf_counter

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from PIL import Image
from tiny_parts import make_image, save_language_model
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, LangBridgeProcessor, to_llava
from modeling_langbridge.conversion.from_llava import load_llava
from modeling_langbridge.reading.explaining import explain


SCRIPT = SCRIPTS / "explain.py"


@pytest.fixture(scope="module")
def saved(vision, text, tmp_path_factory):
    """A folder with a checkpoint, its adapter alone, another language model's checkpoint, and three LLaVAs."""
    folder = tmp_path_factory.mktemp("models")
    model, processor = compose(vision, text, coefficient_activation="gated_softmax")
    other = compose(vision, save_language_model("llama3", folder / "llama3"), coefficient_activation="gated_softmax")
    mlp = compose(vision, text, adapter_type="mlp")
    saves = {"model": (model, processor), "other": other, "mlp": mlp, "llava": to_llava(*mlp)}
    saves["linear"] = compose(vision, text, adapter_type="linear")
    for name, parts in saves.items():
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
    assert printed.startswith(f"{tmp_path / 'out'} holds the pages of 2 of 2 images. ")
    suffixes = ("html", "json", "png")
    assert names(tmp_path / "out") == {f"{name}.{suffix}" for name in ("red", "blue") for suffix in suffixes}
    parts = (cls.from_pretrained(saved / "model") for cls in (LangBridgeForConditionalGeneration, LangBridgeProcessor))
    expected = explain(*parts, photos / "blue.png", top=3)
    content = json.loads((tmp_path / "out" / "blue.json").read_text())
    assert content.pop("image") == "blue.png" and content.pop("model") == str(saved / "model")
    assert content == json.loads(json.dumps(expected.to_dict()))
    assert Image.open(tmp_path / "out" / "blue.png").size == (960, 960)  # the photo alone
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


@pytest.mark.parametrize("name", ["llava", "mlp", "linear"])
def test_a_llava_is_lifted_and_explained_in_the_words_of_a_vocabulary(saved, photos, tmp_path, run_script, name):
    where = ("--images", photos / "red.png", "--output_dir", tmp_path / "out")
    printed = run_script("--model", saved / name, "--vocabulary", saved / "words.json", *where)
    assert f"{saved / name}: The 41 words span 32 of the 32 dimensions" in printed
    content = json.loads((tmp_path / "out" / "red.json").read_text())
    assert len(content["views"]) == 4 and "not identifiable" in content["notes"][0]

    # The cosines are those of the LLaVA's own visual tokens.
    llava, processor = load_llava(str(saved / name))
    pixel_values = processor.image_processor(make_image("red"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = llava.get_image_features(pixel_values).pooler_output[0]  # (16, d)
        [dog] = processor.tokenizer.encode(" dog", add_special_tokens=False)
        expected = torch.cosine_similarity(tokens, llava.get_input_embeddings().weight[dog], dim=-1)  # (16,)
    options = ("--vocabulary", saved / "words.json", "--words", "dog", "--layers", 0)
    run_script("--model", saved / name, *options, *where[:2], "--output_dir", tmp_path / "dog")
    cosines = json.loads((tmp_path / "dog" / "red.json").read_text())["views"][1]["maps"]["dog"]
    torch.testing.assert_close(torch.tensor(cosines).flatten(), expected, rtol=1e-3, atol=1e-3)


def test_the_picture_says_where_coefficients_are_not_identifiable(saved, photos, tmp_path, run_script):
    for number, height in ((41, 1003), (32, 960)):  # 32 words, as many as the language model has dimensions
        out = tmp_path / str(number)
        options = ("--vocabulary", saved / "words.json", "--vocab_size", number, "--layers", 0)
        run_script("--model", saved / "mlp", *options, "--images", photos / "red.png", "--output_dir", out)
        picture = Image.open(out / "red.png")
        assert picture.size == (960, height)
        assert ("not identifiable" in (out / "red.json").read_text()) == (height > 960)
    strip = Image.open(tmp_path / "41" / "red.png").crop((0, 960, 960, 1003)).convert("L")
    assert strip.getpixel((0, 20)) == 255 and strip.getextrema()[0] < 50  # black letters on white


def test_the_last_line_tells_the_models_own_time_from_the_rest(saved, photos, tmp_path, run_script):
    started = perf_counter()
    printed = run_script("--model", saved / "model", "--images", photos, "--output_dir", tmp_path / "out")
    elapsed = perf_counter() - started
    seconds = re.search(
        r"An image took (\S+) s of the vision tower and the language model, and (\S+) s beyond\.\n$", printed
    )
    assert 0 < float(seconds[1]) + float(seconds[2]) < elapsed / 2 + 0.01


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

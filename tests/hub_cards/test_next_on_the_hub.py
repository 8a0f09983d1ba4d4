# SPDX-License-Identifier: Apache-2.0
"""A LangBridge-NeXT, its adapter and its export on the Hub: each is told for what it is, whole, and loaded by name."""

import shutil
from pathlib import Path

import pytest
from hub_clients import CARD, LANGUAGE_MODEL, VISION_TOWER
from paths import SCRIPTS
from tiny_parts import make_image
from trained_langbridge import open_folder, save_trained
from transformers import pipeline

from hub_cards.cards import make_card
from hub_cards.facts import CardFacts
from hub_cards.repository import CODE, NEXT_CODE, files_to_push, kind_of
from hub_cards.tested_versions import VersionTable, hash_code
from modeling_langbridge import LangBridgeAdapter, LangBridgeNextForConditionalGeneration, to_llava


pytest_plugins = "hub_fixtures"

SCRIPT = SCRIPTS / "push_to_hub.py"
BASES = {"model": [LANGUAGE_MODEL, VISION_TOWER], "adapter": [VISION_TOWER], "llava": [LANGUAGE_MODEL, VISION_TOWER]}
# Widths and heights of photos, from one pixel high to one pixel wide.
SIZES = [(width, height) for width in (1, 10, 31, 48, 64, 96, 300) for height in (1, 20, 32, 64, 65, 130, 1000)]

ANSWERS = """
from transformers import pipeline

picture, *places = sys.argv[1:]
content = [{"type": "image", "path": picture}, {"type": "text", "text": "what is it?"}]
for place in places:
    pipe = pipeline("image-text-to-text", model=place, trust_remote_code=place.endswith("model"))
    answer = pipe(text=[{"role": "user", "content": content}], max_new_tokens=8, do_sample=False)
    print(type(pipe.model).__name__, ascii(answer[0]["generated_text"][-1]["content"]))
"""


@pytest.fixture(scope="module")
def next_folders(vision, text, tmp_path_factory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("next")
    model, processor = open_folder(
        save_trained(vision, text, top / "trained", model_class=LangBridgeNextForConditionalGeneration)
    )
    for part in (model.config.vision_config, model.config.text_config):
        part._name_or_path = ""
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(top / "adapter")
    llava = to_llava(model, processor)
    for parts, kind in (((model, processor), "model"), (llava, "llava")):
        for part in parts:
            part.save_pretrained(top / kind)
    make_image(size=(90, 60)).save(top / "picture.png")
    return {kind: top / kind for kind in BASES} | {"picture": top / "picture.png"}


def card_of(folder: Path, kind: str) -> str:
    return " ".join(make_card(folder, CardFacts(repo_id="user/name", base_models=BASES[kind])).text.split())


@pytest.mark.parametrize("kind", BASES)
def test_each_is_told_for_what_it_is(kind, next_folders):
    assert kind_of(next_folders[kind]) == kind
    card = card_of(next_folders[kind], kind)
    told = {
        "model": "It is a LangBridge-NeXT: like [LLaVA-NeXT]",
        "adapter": "`join` makes a LangBridge-NeXT of it",
        "llava": "every server that supports [LLaVA-NeXT]",
    }
    assert [part for part in told if told[part] in card] == [kind]
    if kind != "adapter":
        assert (
            "| tiles | 32 x 32 pixels | | resolutions | 64 x 32, 32 x 64, 64 x 64, 32 x 96, 96 x 32 pixels |" in card
        )
        assert "brought to the resolution above that fits it best" in card and "is resized to the size" not in card


@pytest.mark.parametrize("kind", ["model", "llava"])
def test_the_range_of_visual_tokens_is_that_of_photos_of_all_shapes(kind, next_folders):
    _, processor = open_folder(next_folders[kind])
    counts = [
        (processor(images=[make_image(size=size)], text="<image>")["input_ids"][0]).count(processor.image_token_id)
        for size in SIZES
    ]
    assert f"| visual tokens per image | 16 to {max(counts)}, by its shape |" in card_of(next_folders[kind], kind)
    assert min(counts) >= 16


def test_no_card_is_made_without_what_cuts_the_tiles(next_folders, tmp_path):
    folder = shutil.copytree(next_folders["model"], tmp_path / "copy")
    (folder / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=f"There is no image processor in {folder}: `processor.save_pretrained`"):
        card_of(folder, "model")


def test_words_per_image_are_its_visual_tokens(vision, text, tmp_path):
    fields = {"coefficient_activation": "softmax", "words_per_image": 3}
    model_class = LangBridgeNextForConditionalGeneration
    folder = save_trained(vision, text, tmp_path / "words", model_class=model_class, **fields)
    card = card_of(folder, "model")
    assert "| visual tokens per image | 3 |" in card and "tiles | 32 x 32" in card and "newline" not in card


def test_no_version_is_claimed_for_its_code(next_folders, vision, text, tmp_path, monkeypatch):
    fields = {name: getattr(VersionTable.load(), name) for name in VersionTable.__dataclass_fields__}
    tried = VersionTable(**fields | {"code": hash_code(next_folders["model"])})
    monkeypatch.setattr(VersionTable, "load", lambda: tried)
    assert "was tested with" in card_of(save_trained(vision, text, tmp_path / "plain"), "model")
    assert "was tested with" not in card_of(next_folders["model"], "model")


@pytest.mark.parametrize("name", [*CODE, *NEXT_CODE])
def test_a_code_file_that_is_missing_is_named(name, next_folders, tmp_path):
    assert {*CODE, *NEXT_CODE} <= {*files_to_push(next_folders["model"], "model")}
    folder = shutil.copytree(next_folders["model"], tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"There is no {name} in "):
        files_to_push(folder, "model")


def test_code_that_is_not_this_packages_is_refused(next_folders, tmp_path, run_script):
    folder = shutil.copytree(next_folders["model"], tmp_path / "copy")
    with (folder / "modeling_langbridge_next.py").open("a") as file:
        file.write("# changed\n")
    bases = [f"--base_model={name}" for name in BASES["model"]]
    message = run_script("--folder", folder, "--repo_id", "user/copy", *CARD, *bases)
    assert "modeling_langbridge_next.py is not the modeling_langbridge_next.py of this LangBridge" in message


@pytest.mark.slow
def test_what_is_published_is_loaded_by_name_without_this_project(next_folders, hub, publisher, client):
    for kind, bases in BASES.items():
        options = [f"--base_model={name}" for name in bases]
        photos = ["--photos", next_folders["picture"]] if kind == "model" else []
        result = publisher.push(next_folders[kind], f"user/next-{kind}", *CARD, *options, *photos)
        assert result.returncode == 0, result.stderr[-3000:]
    assert {*CODE, *NEXT_CODE, "words.png"} <= hub.repositories["user/next-model"].files.keys()
    assert not any(name.endswith(".py") for name in hub.repositories["user/next-llava"].files)
    content = [{"type": "image", "path": str(next_folders["picture"])}, {"type": "text", "text": "what is it?"}]
    pipe = pipeline("image-text-to-text", model=str(next_folders["model"]))
    answer = pipe(text=[{"role": "user", "content": content}], max_new_tokens=8, do_sample=False)
    answer = ascii(answer[0]["generated_text"][-1]["content"])
    assert client.load(ANSWERS, next_folders["picture"], "user/next-model", "user/next-llava").splitlines() == [
        f"LangBridgeNextForConditionalGeneration {answer}",
        f"LlavaNextForConditionalGeneration {answer}",
    ]

# SPDX-License-Identifier: Apache-2.0
"""The script that changes the language model: checkpoints and adapters alone, what it predicts, what it refuses."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from in_process import run_script_here
from paths import SCRIPTS
from tiny_parts import SENTENCES, make_image, save_language_model, save_other_language_model
from tiny_training import load_script
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from hub_cards.training_record import TRAINING_RECORD
from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
)


SCRIPT = SCRIPTS / "transfer.py"


@pytest.fixture(scope="module")
def other_text(tmp_path_factory) -> str:
    return save_language_model("llama2", tmp_path_factory.mktemp("llama2"))


@pytest.fixture(scope="module")
def checkpoints(vision, text, tmp_path_factory) -> dict[str, Path]:
    """Raw and grounded checkpoints and a grounded adapter alone, as random as if they had been trained."""
    folder = tmp_path_factory.mktemp("checkpoints")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    for name, activation in (("raw", "linear"), ("grounded", "gated_softmax")):
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision,
            text,
            SharedVocabulary.build([processor.tokenizer], SENTENCES, 60),
            processor,
            projector_hidden_size=40,
            coefficient_activation=activation,
        )
        torch.manual_seed(0)
        for parameter in (*model.model.multi_modal_projector.parameters(), *model.model.vocabulary_head.parameters()):
            torch.nn.init.normal_(parameter, std=0.3)
        for part in (model, processor):
            part.save_pretrained(folder / name)
        (folder / name / TRAINING_RECORD).write_text(f"how {name} was trained")
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for position in range(12):
        make_image(("red", "blue", "green")[position % 3], (40 + position, 40)).save(folder / f"{position}.png")
    return folder


@pytest.fixture
def script(monkeypatch, other_text, tmp_path):
    module = load_script("transfer")

    def run(model: Path, *arguments: object) -> Path:
        command = ["--model", model, "--language_model", other_text, "--output_dir", tmp_path / "moved", *arguments]
        monkeypatch.setattr(sys, "argv", ["transfer.py", *map(str, command)])
        module.main()
        return tmp_path / "moved"

    return run


@torch.no_grad()
def coefficients(folder: Path) -> torch.Tensor:
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    pixel_values = processor.image_processor(make_image("red"), return_tensors="pt")["pixel_values"]
    return model.get_image_coefficients(pixel_values)


def test_a_checkpoint_keeps_its_words_on_another_language_model(checkpoints, other_text, vision, tmp_path):
    old_name = "--text"  # of --language_model
    command = ["--model", checkpoints["raw"], old_name, other_text, "--output_dir", tmp_path / "moved"]
    result = run_script_here(SCRIPT, *command)
    assert result.returncode == 0, result.stderr
    assert "60 of 60" in result.stdout and "Needs finetuning: raw coefficients" in result.stdout
    torch.testing.assert_close(coefficients(tmp_path / "moved"), coefficients(checkpoints["raw"]))
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    assert config["text_config"]["model_type"] == "llama"
    chat = AutoProcessor.from_pretrained(tmp_path / "moved")
    assert chat.chat_template is not None and (tmp_path / "moved" / "modeling_langbridge.py").is_file()
    assert (tmp_path / "moved" / TRAINING_RECORD).read_text() == "how raw was trained"


def test_an_adapter_alone_is_given_its_tower_and_handed_over_as_words(checkpoints, vision, script, capsys):
    folder = script(checkpoints["adapter"], "--vision_tower", vision, "--words_per_image", 5, "--linear_remainder")
    config = json.loads((folder / "config.json").read_text())
    assert config["words_per_image"] == 5 and config["linear_remainder"] is True
    assert "Usable at once if the adapter was trained: give two photos" in capsys.readouterr().out
    torch.testing.assert_close(coefficients(folder), coefficients(checkpoints["grounded"]))


def test_split_words_are_combined_after_the_old_language_model(checkpoints, vision, text, script, tmp_path, capsys):
    fewer_words = save_other_language_model(tmp_path / "fewer_words")
    options = ["--language_model", fewer_words, "--split_words", "combine"]
    folder = script(checkpoints["grounded"], *options)
    assert "words made of other words                                            21" in capsys.readouterr().out
    whole = AutoModelForImageTextToText.from_pretrained(folder)
    shutil.rmtree(folder)
    script(checkpoints["adapter"], "--vision_tower", vision, *options, "--reference_language_model", text)
    alone = AutoModelForImageTextToText.from_pretrained(folder)
    assert alone.config.split_words == "combine"
    assert alone.model.get_word_embeddings().equal(whole.model.get_word_embeddings())


def test_words_are_distilled_from_a_folder_of_images(checkpoints, photos, script, capsys):
    folder = script(
        checkpoints["grounded"], "--distill_images", photos, "--distill_steps", 3, "--distill_batch_size", 4
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["coefficient_activation"] == "linear" and config["projector_hidden_size"] == 32
    printed = capsys.readouterr().out
    assert "R² " in printed.splitlines()[-2]
    assert printed.count("not known") == 1  # the null space, which distributions do not have
    assert not list(folder.glob("checkpoint-*")) and not (folder / "training_args.bin").exists()


def test_distilled_coefficients_learn_what_is_said_of_each_image(checkpoints, photos, script, other_text, capsys):
    options = ["--distill_images", photos, "--distill_steps", 2, "--distill_batch_size", 4]
    folder = script(checkpoints["grounded"], *options, "--distill_caption_steps", 3)
    assert "nats per token from what is said after the words" in capsys.readouterr().out.splitlines()[-2]
    assert not (folder / "training_args.bin").exists()
    model = LangBridgeForConditionalGeneration.from_pretrained(folder)
    assert model.config.coefficient_activation == "linear" and model.config.words_per_image is None
    plain = AutoModelForCausalLM.from_pretrained(other_text)
    assert model.lm_head.weight[: plain.lm_head.weight.shape[0]].equal(plain.lm_head.weight)


def test_photos_and_a_clean_null_space_are_told(checkpoints, photos, script, capsys):
    script(checkpoints["raw"], "--photos", photos, "--clean_null_space")
    line = next(line for line in capsys.readouterr().out.splitlines() if "in the old model's null space" in line)
    assert float(line.split()[-1]) < 1e-6


@pytest.mark.parametrize(
    ("model", "options", "complaint"),
    [
        ("adapter", [], "is an adapter alone: give its vision tower, --vision_tower"),
        ("adapter", ["--vision_tower", "{vision}", "--clean_null_space"], "needs the old language model"),
        ("raw", ["--vision_tower", "{vision}"], "leave out --vision_tower"),
        ("raw", ["--distill_images", "{photos}"], "raw already"),
        ("raw", ["--distill_images", "nowhere"], "nowhere"),
        ("grounded", ["--clean_null_space"], "Only raw coefficients have a null space"),
        ("raw", ["--words_per_image", "5"], "set `coefficient_activation`"),
        ("adapter", ["--vision_tower", "{vision}", "--split_words", "combine"], "go together for an adapter alone"),
        ("raw", ["--reference_language_model", "{vision}"], "leave out --reference_language_model"),
        ("photos", [], "There is no config.json in .*photos.*: name the folder of a model"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    checkpoints, photos, vision, script, tmp_path, model, options, complaint
):
    options = [option.format(vision=vision, photos=photos) for option in options]
    with pytest.raises((ValueError, OSError, StrictDataclassError), match=complaint):
        script(checkpoints.get(model, photos), *options)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_as_it_is(checkpoints, script, tmp_path):
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="moved exists"):
        script(checkpoints["raw"])
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["mine"]

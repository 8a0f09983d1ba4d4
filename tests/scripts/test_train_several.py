# SPDX-License-Identifier: Apache-2.0
"""`train.py --language_models`: an adapter trained with two language models is used on a third."""

from pathlib import Path

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from refusals import assert_refused
from safetensors.torch import load_file
from tiny_parts import SENTENCES, make_tokenizer, save_language_model, save_other_language_model
from tiny_training import write_samples
from transformers import pipeline
from two_processes import train_in_two_processes

from hub_cards.training_record import read_training_records
from modeling_langbridge import SharedVocabulary
from modeling_langbridge.adapter.loading import open_model


@pytest.fixture(scope="module")
def folder(text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_samples(folder)
    SharedVocabulary.build([make_tokenizer()], SENTENCES, 60).save(folder / "words.json")
    save_other_language_model(folder / "second")
    save_language_model("llama2", folder / "third")
    return folder


def command(folder: Path, vision: str, *options: object) -> list[object]:
    parts = ["--vision_tower", vision, "--vocabulary", folder / "words.json", "--dataset", folder / "samples.json"]
    short = ["--max_steps", 4, "--logging_steps", 2, "--use_cpu", "--report_to", "none", "--output_dir", "two"]
    recipe = ["--config", SCRIPTS / "recipes" / "tiny.yaml"]
    return [*recipe, *parts, *short, *options]


def test_an_adapter_of_two_language_models_is_used_on_a_third(folder, vision, text):
    options = ["--language_models", text, "second", "--save_strategy", "steps", "--save_steps", 2]
    result = run_script_here(SCRIPTS / "train.py", *command(folder, vision, *options), cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (folder / "two/checkpoint-2/adapter/adapter.safetensors").is_file()
    weights = load_file(folder / "two/adapter/adapter.safetensors")
    for saved in ("two", "two/adapter"):
        [record] = read_training_records(folder / saved / "training_record.json")
        assert record.language_models == [
            "one of type qwen2",
            "one of type gpt2",
        ]  # local ones, whose names are nobody's business
        told = "- language models, in turn, batch by batch: `one of type qwen2`, `one of type gpt2`"
        assert told in (folder / saved / "README.md").read_text()
    model, _ = open_model(str(folder / "two"), device_map=None)
    assert model.config.text_config.model_type == "qwen2"
    assert model.model.vocabulary_head.weight.equal(weights["vocabulary_head.weight"])

    moved = ["--model", "two/adapter", "--vision_tower", vision, "--language_model", "third", "--output_dir", "three"]
    result = run_script_here(SCRIPTS / "transfer.py", *moved, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    pipe = pipeline("image-text-to-text", model=str(folder / "three"))
    content = [{"type": "image", "path": str(folder / "red.png")}, {"type": "text", "text": "what is in the picture?"}]
    answer = pipe(text=[{"role": "user", "content": content}], max_new_tokens=3, min_new_tokens=3)
    assert pipe.model.config.text_config.model_type == "llama"
    assert pipe.model.model.vocabulary_head.weight.equal(weights["vocabulary_head.weight"])
    assert isinstance(answer[0]["generated_text"][-1]["content"], str)


def test_two_processes_learn_what_one_learns_in_turn(folder, vision, text, tmp_path):
    samples = write_samples(tmp_path, number=16)
    options = ["--language_models", text, "third", "--dataset", samples, "--train_sampling_strategy", "sequential"]
    layouts = {"one": [4, "--gradient_accumulation_steps", 2], "both": [4]}
    commands = {
        name: command(folder, vision, *options, "--per_device_train_batch_size", *sizes, "--output_dir", folder / name)
        for name, sizes in layouts.items()
    }
    result = run_script_here(SCRIPTS / "train.py", *commands["one"], cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    train_in_two_processes("ddp", [commands["both"]], cwd=folder)
    one, both = (load_file(folder / name / "adapter/adapter.safetensors") for name in layouts)
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--language_models", "second"], "needs two or more, each once"),
        (["--language_models", "second", "second"], "needs two or more, each once"),
        (["--language_models", "second", "third", "--language_model", "second"], "both say with what to train"),
        (["--language_models", "second", "third", "--load_in_4bit"], "`load_in_4bit` does not go with"),
        (["--language_models", "second", "third", "--max_length", 64], "does not support `max_length`: leave it out"),
        (["--language_models", "second", "absent"], "no folder absent"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, vision, options, sentence):
    assert_refused(SCRIPTS / "train.py", command(folder, vision, *options, "--output_dir", "none"), sentence, folder)

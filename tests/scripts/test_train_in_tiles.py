# SPDX-License-Identifier: Apache-2.0
"""`train.py --model_type langbridge_next`: a first stage on whole images, a second one on their tiles."""

from pathlib import Path

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from refusals import assert_refused
from safetensors.torch import load_file
from tiny_parts import SENTENCES, make_tokenizer
from tiny_training import SIZES, write_samples

from modeling_langbridge import LangBridgeNextForConditionalGeneration, SharedVocabulary
from modeling_langbridge.adapter.loading import open_model
from trainer.model_loading import ModelArguments, compose, compose_once


SCRIPT = SCRIPTS / "train.py"
GRID = ["32x64", "64x32"]
ADAPTER = "adapter/adapter.safetensors"


@pytest.fixture(scope="module")
def folder(vision, text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_samples(folder, sizes=SIZES)
    SharedVocabulary.build([make_tokenizer()], SENTENCES, 60).save(folder / "words.json")
    train(folder, vision, text, "first", "--vocabulary", folder / "words.json", "--projector_hidden_size", 40)
    return folder


def train(folder: Path, vision: str, text: str, output: str, *options) -> None:
    parts = ["--vision_tower", vision, "--language_model", text, "--dataset", folder / "samples.json"]
    short = ["--max_steps", 2, "--use_cpu", "--bf16", "false", "--report_to", "none", "--save_strategy", "no"]
    result = run_script_here(SCRIPT, *parts, *short, "--output_dir", folder / output, *options)
    assert result.returncode == 0, result.stderr[-3000:]


def arguments_of(vision, text, folder, **options) -> ModelArguments:
    return ModelArguments(vision_tower=vision, language_model=text, adapter=str(folder / "first/adapter"), **options)


def test_an_adapter_of_whole_images_goes_on_in_tiles(folder, vision, text):
    tiles = ["--model_type", "langbridge_next", "--image_grid_pinpoints", *GRID]
    modes = ["--train_vision_tower", "full", "--train_language_model", "full", "--vision_tower_learning_rate", 1e-6]
    train(folder, vision, text, "second", "--adapter", folder / "first/adapter", *tiles, *modes)
    model, processor = open_model(str(folder / "second"), device_map=None)
    assert type(model) is LangBridgeNextForConditionalGeneration
    grids = model.config.image_grid_pinpoints, processor.image_processor.image_grid_pinpoints
    assert grids == ([[32, 64], [64, 32]],) * 2
    before, after = (load_file(folder / stage / ADAPTER) for stage in ("first", "second"))
    assert after.keys() - before.keys() == {"image_newline"}
    # AdamW's two steps move each weight by less than the rate, 5e-5, each.
    assert all((after[name] - before[name]).abs().max() < 2e-4 for name in before)


def test_pooled_patches_are_trained_and_go_on_with_the_adapter(folder, vision, text):
    words = ["--vocabulary", folder / "words.json", "--projector_hidden_size", 40]
    train(folder, vision, text, "pooled", *words, "--pool_patches", 2)
    model, processor = open_model(str(folder / "pooled"), device_map=None)
    assert (model.config.pool_patches, processor.num_image_tokens) == (2, 4)
    for options, expected in ({}, 2), ({"pool_patches": 1}, 1):
        arguments = ModelArguments(
            vision_tower=vision, language_model=text, adapter=str(folder / "pooled/adapter"), **options
        )
        model, processor = compose(arguments)
        assert model.config.pool_patches == processor.pool_patches == expected


def test_it_starts_with_the_adapters_weights_and_the_resolutions_of_llava_next_where_none_are_given(
    folder, vision, text
):
    model, processor = compose(arguments_of(vision, text, folder, model_type="langbridge_next"))
    assert processor.image_processor.image_grid_pinpoints == [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    for name, weight in load_file(folder / "first" / ADAPTER).items():
        torch.testing.assert_close(model.model.get_parameter(name), weight, rtol=0, atol=0)


def test_an_adapter_that_was_trained_in_tiles_stays_one_unless_it_is_told_otherwise(vision, text, folder, tmp_path):
    in_tiles = arguments_of(vision, text, folder, model_type="langbridge_next")
    model, processor = compose(in_tiles)
    from modeling_langbridge import LangBridgeAdapter

    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    options = {"vision_tower": vision, "language_model": text, "adapter": str(tmp_path / "adapter")}
    again, _ = compose(ModelArguments(**options))
    assert again.config.model_type == "langbridge_next"
    assert torch.equal(again.model.image_newline, model.model.image_newline)
    assert compose(ModelArguments(**options, model_type="langbridge"))[0].config.model_type == "langbridge"


def test_a_model_composed_otherwise_is_not_gone_on_with(vision, text, folder, tmp_path):
    compose_once(arguments_of(vision, text, folder), tmp_path / "base")
    compose_once(arguments_of(vision, text, folder), tmp_path / "base")
    with pytest.raises(ValueError, match="base was composed with --model_type None, not langbridge_next: name"):
        compose_once(arguments_of(vision, text, folder, model_type="langbridge_next"), tmp_path / "base")


def test_what_does_not_fit_is_refused(vision, text, folder, tmp_path):
    parts = ["--vision_tower", vision, "--language_model", text, "--adapter", folder / "first/adapter"]
    run = [*parts, "--dataset", folder / "samples.json", "--output_dir", "out", "--use_cpu", "--max_steps", "1"]
    sentence = "--image_grid_pinpoints would have no effect: it needs --model_type langbridge_next"
    assert_refused(SCRIPT, [*run, "--image_grid_pinpoints", *GRID], sentence, tmp_path)
    tiles = ["--model_type", "langbridge_next", "--image_grid_pinpoints", "40x32"]
    sentence = r"`image_grid_pinpoints` holds \[40, 32\]: the vision tower's tiles are 32 wide"
    assert_refused(SCRIPT, [*run, *tiles], sentence, tmp_path)

# SPDX-License-Identifier: Apache-2.0
"""A LoRA's folder only names its base: a model that is not what lies there is refused before training."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig
from tiny_training import make_trainer, save_langbridge, write_samples
from transformers import AutoModelForImageTextToText

from trainer import load_training_data
from trainer.checkpointing.lora_base import find_base, point_to_base


@pytest.fixture
def base(vision, text, processor, tmp_path) -> str:
    return save_langbridge(vision, text, processor, tmp_path / "base")


@pytest.fixture
def make(processor, tmp_path):
    dataset = load_training_data(str(write_samples(tmp_path)))

    def make(model, **options):
        options = {"train_language_model": "lora", **options}
        return make_trainer(model, processor, dataset, tmp_path / "out", **options)

    return make


def with_more_tokens(model, base):
    model.resize_token_embeddings(model.config.text_config.vocab_size + 2)
    return r"`text_config.vocab_size` is \d+ here but \d+ in "


def with_a_token_set(model, base):
    model.get_input_embeddings().weight.data[-1] = 0
    return "`model.language_model.embed_tokens.weight` is not as it is in "


def with_a_layer_changed(model, base):
    model.model.language_model.layers[1].mlp.up_proj.weight.data[3, 5] += 1
    return "layers.1.mlp.up_proj.weight` is not as it is in "


def with_a_tower_changed(model, base):
    model.model.vision_tower.embeddings.class_embedding.data += 1
    return "class_embedding` is not as it is in "


def with_an_adapter_of_another_shape(model, base):
    projector = model.model.multi_modal_projector
    projector.linear_1 = torch.nn.Linear(projector.linear_1.in_features, 24)
    return "linear_1.weight` is not as it is in "


def with_an_option_changed(model, base):
    model.config.vision_feature_layer = -1
    return "`vision_feature_layer` is -1 here but -2 in "


def with_another_lora(model, base):
    model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    return "with another LoRA"


def never_saved(model, base):
    model.name_or_path = model.config.name_or_path = ""
    return "this one was composed in memory"


def whose_folder_is_gone(model, base):
    shutil.rmtree(base)
    return "there is no model at "


@pytest.mark.parametrize(
    "fault",
    [
        with_more_tokens,
        with_a_token_set,
        with_a_layer_changed,
        with_a_tower_changed,
        with_an_adapter_of_another_shape,
        with_an_option_changed,
        with_another_lora,
        never_saved,
        whose_folder_is_gone,
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_model_that_is_not_what_was_saved_is_refused_with_the_way_out(fault, base, make):
    model = AutoModelForImageTextToText.from_pretrained(base)
    sentence = fault(model, base)
    with pytest.raises(ValueError, match=f"{sentence}.*save the model and its processor"):
        make(model)


def test_words_that_were_pointed_elsewhere_are_refused_where_the_head_is_not_trained(base, make):
    model = AutoModelForImageTextToText.from_pretrained(base)
    model.model.vocabulary_head.token_ids += 1
    with pytest.raises(ValueError, match="vocabulary_head.token_ids` is not as it is in "):
        make(model, train_vocabulary_head="frozen")


def test_what_the_loras_folder_keeps_may_have_been_changed(base, make):
    model = AutoModelForImageTextToText.from_pretrained(base)
    model.model.vocabulary_head.weight.data += 1
    make(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_is_no_other_model(base, make, dtype):
    make(AutoModelForImageTextToText.from_pretrained(base, dtype=dtype).float())


def test_how_a_model_is_run_is_no_other_model(base, make):
    model = AutoModelForImageTextToText.from_pretrained(base, attn_implementation="eager")
    model.config.use_cache = False
    make(model)


def test_without_lora_a_model_composed_in_memory_is_trained(model, make):
    make(model, train_language_model="full")


@pytest.mark.parametrize(
    ("base", "named"),
    [("run/base", "./base"), ("base", "../base"), ("user/name", "user/name"), ("../elsewhere", "../elsewhere")],
    ids=["inside", "beside", "on_the_hub", "relative_already"],
)
def test_a_loras_folder_names_a_local_base_by_the_path_from_itself(tmp_path, monkeypatch, base, named):
    monkeypatch.chdir(tmp_path)
    for folder in ("run/base", "base"):
        (tmp_path / folder).mkdir(parents=True)
    path = tmp_path / "run" / "adapter_config.json"
    path.write_text(json.dumps({"base_model_name_or_path": base, "r": 8}))
    point_to_base(tmp_path / "run", tmp_path / "run")
    assert json.loads(path.read_text()) == {"base_model_name_or_path": named, "r": 8}


def test_a_named_base_is_found_from_the_loras_folder_and_an_ambiguous_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert find_base(tmp_path / "lora", "../base") == str(tmp_path / "base")
    assert find_base(tmp_path / "lora", "user/name") == "user/name"
    assert find_base(tmp_path / "lora", str(tmp_path / "runs")) == str(tmp_path / "runs")
    with pytest.raises(ValueError, match="'runs/base', which may be the folder .* or a repository .*--base"):
        find_base(tmp_path / "lora", "runs/base")

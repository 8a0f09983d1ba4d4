# SPDX-License-Identifier: Apache-2.0
"""Weights that are no numbers are found wherever they come from, and never saved, exported or called trained."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_parts import SENTENCES
from tiny_training import OPTIONS, make_trainer, write_samples

from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, SharedVocabulary, to_llava
from modeling_langbridge.utils.weights import read_metadata, read_shapes, require_finite, require_finite_files
from trainer import load_training_data


NOT_FINITE = "holds values that are not finite"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_among_many_is_found_in_memory_and_in_a_file(dtype, value, tmp_path):
    tensors = {"fine": torch.randn(5, 7).to(dtype), "ids": torch.arange(3), "spoilt": torch.randn(5, 7).to(dtype)}
    save_file(tensors, tmp_path / "weights.safetensors")
    require_finite(tensors.items(), "the model")
    require_finite_files([tmp_path / "weights.safetensors"])
    tensors["spoilt"][3, 2] = value
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=f"`spoilt` in the model {NOT_FINITE}"):
        require_finite(tensors.items(), "the model")
    with pytest.raises(ValueError, match=f"`spoilt` in .*weights.safetensors {NOT_FINITE}"):
        require_finite_files([tmp_path / "weights.safetensors"])


def test_a_large_number_and_no_number_at_all_are_finite():
    require_finite([("large", torch.tensor([torch.finfo(torch.float32).max] * 3)), ("empty", torch.empty(0))], "it")


def test_shapes_and_metadata_are_read_from_headers(tmp_path):
    save_file({"a": torch.ones(2, 3)}, tmp_path / "one", metadata={"words": "hash"})
    save_file({"b": torch.ones(4)}, tmp_path / "two")
    assert read_shapes([tmp_path / "one", tmp_path / "two"]) == {"a": [2, 3], "b": [4]}
    assert read_metadata(tmp_path / "one") == {"words": "hash"} and read_metadata(tmp_path / "two") == {}


@pytest.fixture
def spoilt(vision, text, processor) -> LangBridgeForConditionalGeneration:
    words = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, words, processor, projector_hidden_size=24
    )
    with torch.no_grad():
        model.model.vocabulary_head.bias[2] = torch.inf
    return model


def test_an_adapter_is_not_made_of_it(spoilt, processor):
    with pytest.raises(ValueError, match=f"`vocabulary_head.bias` in The model's adapter {NOT_FINITE}"):
        LangBridgeAdapter.from_model(spoilt, processor.tokenizer)


def test_it_is_not_exported(spoilt, processor):
    with pytest.raises(ValueError, match=f"`linear_2.bias` in the folded projector, .* {NOT_FINITE}"):
        to_llava(spoilt, processor)


def test_training_does_not_save_it(spoilt, processor, tmp_path):
    dataset = load_training_data(str(write_samples(tmp_path)))
    trainer = make_trainer(spoilt, processor, dataset, tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match=f"vocabulary_head.bias` in the trained model {NOT_FINITE}"):
        trainer.save_model()
    assert not list((tmp_path / "out").glob("*.safetensors"))

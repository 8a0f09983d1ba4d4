# SPDX-License-Identifier: Apache-2.0
"""A LangBridge that LLaVA's own classes are given is refused, even where all of LLaVA's weights would fit."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoModelForImageTextToText,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaNextForConditionalGeneration,
)

from modeling_langbridge import (
    LangBridgeForConditionalGeneration,
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextProcessor,
)


@pytest.fixture(params=[LangBridgeForConditionalGeneration, LangBridgeNextForConditionalGeneration])
def fitting(request, vision, text, processor, tmp_path):
    """A saved LangBridge, and a LangBridge-NeXT, whose projector is as wide as the language model, 32."""
    if request.param is LangBridgeNextForConditionalGeneration:
        processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)
    model = request.param.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor, projector_hidden_size=32
    )
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


@pytest.mark.parametrize("llava", [LlavaForConditionalGeneration, LlavaModel, LlavaNextForConditionalGeneration])
def test_llavas_classes_refuse_a_langbridge_and_say_what_to_do(fitting, llava):
    with pytest.raises(StrictDataclassError, match="a LangBridge, .* trust_remote_code=True, or .*scripts/export.py"):
        llava.from_pretrained(fitting[1])


def test_the_fields_that_refuse_are_written_again_and_change_nothing(fitting, tmp_path):
    model, folder = fitting
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(loaded) is type(model)
    assert all(
        torch.equal(*pair) for pair in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )

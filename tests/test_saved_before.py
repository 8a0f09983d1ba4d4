# SPDX-License-Identifier: Apache-2.0
"""What an earlier version saved still loads, and gives the logits that it gave then."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_parts import ask, make_image
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_langbridge import LangBridgeAdapter
from trainer.checkpointing.lora_merging import merge_lora


FOLDER = Path(__file__).with_name("saved_before")
CHECKPOINT = FOLDER / "checkpoint"


@pytest.fixture
def model():
    return AutoModelForImageTextToText.from_pretrained(CHECKPOINT)


@pytest.fixture
def processor():
    return AutoProcessor.from_pretrained(CHECKPOINT)


@torch.no_grad()
def assert_gives_what_it_gave(name: str, model, processor) -> None:
    """Compares the logits after a question about an image `(words,)`."""
    inputs = processor.apply_chat_template(
        ask(make_image()), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    expected = load_file(FOLDER / "expected.safetensors")[name]
    torch.testing.assert_close(model(**inputs).logits[0, -1], expected, atol=1e-5, rtol=0)


def test_a_checkpoint(model, processor):
    assert_gives_what_it_gave("checkpoint", model, processor)


def test_an_adapter_that_a_model_takes_over(model, processor):
    LangBridgeAdapter.from_pretrained(FOLDER / "adapter").load_onto(model, processor.tokenizer)
    assert_gives_what_it_gave("adapter", model, processor)


def test_an_adapter_that_is_joined_with_its_tower(model, processor):
    adapter = LangBridgeAdapter.from_pretrained(FOLDER / "adapter")
    joined, _ = adapter.join(model.model.vision_tower, image_processor=processor.image_processor)
    saved, found = load_file(FOLDER / "adapter" / "adapter.safetensors"), joined.model.state_dict()
    assert saved and all(torch.equal(found[name], value) for name, value in saved.items())
    adapter.load_onto(model, processor.tokenizer)
    pixel_values = processor.image_processor(make_image(), return_tensors="pt")["pixel_values"]
    coefficients = (each.get_image_coefficients(pixel_values) for each in (joined, model))
    torch.testing.assert_close(*coefficients, atol=1e-6, rtol=0)


def test_a_lora(processor):
    merged, _, _ = merge_lora(FOLDER / "lora", base=CHECKPOINT)
    assert_gives_what_it_gave("lora", merged, processor)

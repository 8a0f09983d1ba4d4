# SPDX-License-Identifier: Apache-2.0
"""A LLaVA-NeXT lifted into a LangBridge-NeXT: the same function for images of all sizes, its newline made of words."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from tiny_llava import all_words, make_llava
from tiny_parts import make_image, save_language_model, save_vision_tower
from trained_langbridge import save_trained
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers import LlavaNextForConditionalGeneration as LlavaNext

from modeling_langbridge import LangBridgeAdapter, LangBridgeNextForConditionalGeneration, LangBridgeNextProcessor
from modeling_langbridge.conversion.from_llava import lift, load_llava
from modeling_langbridge.conversion.opening import open_any_adapter, open_in_words
from modeling_langbridge.conversion.to_llava import to_llava


SCRIPT = ROOT / "scripts" / "lift.py"
# Wide, high, square, smaller than a tile, one pixel high. (width, height)
SIZES = [(90, 60), (40, 160), (300, 300), (10, 12), (50, 1)]


@pytest.fixture
def parts(vision, text):
    return make_llava(vision, text, LlavaNext)


def prepare(processor, colour: str = "red"):
    images = [make_image(colour, size) for size in SIZES]
    processor.tokenizer.padding_side, processor.tokenizer.pad_token = "left", processor.tokenizer.eos_token
    return processor(images=images, text=["<image>what is it?"] * len(SIZES), return_tensors="pt", padding=True)


@torch.no_grad()
def logits_of(model, processor, colour: str = "red") -> torch.Tensor:
    return model(**prepare(processor, colour)).logits


@pytest.mark.parametrize(
    ("tower", "language_model", "fields"),
    [
        ("clip", "qwen2", {}),
        ("siglip", "llama3", {"vision_feature_layer": [-2, -1], "projector_hidden_act": "relu"}),
        ("clip", "gemma2", {"multimodal_projector_bias": False}),
    ],
)
def test_logits_and_generations_are_the_llava_nexts(tower, language_model, fields, tmp_path):
    vision = save_vision_tower(tower, tmp_path / "vision")
    text = save_language_model(language_model, tmp_path / "text")
    llava, processor = make_llava(vision, text, LlavaNext, **fields)
    expected = logits_of(llava, processor)
    assert (expected - logits_of(llava, processor, "blue")).abs().max() > 0.1  # the picture is seen
    model, lifted_processor, loss = lift(llava, processor, all_words(processor))
    assert type(model) is LangBridgeNextForConditionalGeneration and type(lifted_processor) is LangBridgeNextProcessor
    assert loss.rank == loss.width == 32 and loss.error < 1e-6 and loss.newline_error < 1e-6
    own = {parameter.data_ptr() for parameter in llava.parameters()}
    new = {name for name, parameter in model.named_parameters() if parameter.data_ptr() not in own}
    assert new == {"model.vocabulary_head.weight", "model.vocabulary_head.bias"}

    for part in (model, lifted_processor):
        part.save_pretrained(tmp_path / "lifted")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "lifted")
    for lifted, its in ((model, lifted_processor), (loaded, AutoProcessor.from_pretrained(tmp_path / "lifted"))):
        torch.testing.assert_close(logits_of(lifted, its), expected, rtol=0, atol=1e-4)
        answers = [
            one.generate(**prepare(of), max_new_tokens=8, do_sample=False, eos_token_id=-1)
            for one, of in ((llava, processor), (lifted, its))
        ]
        assert torch.equal(*answers)


@pytest.mark.parametrize("adapter_type", ["mlp", "linear"])
def test_a_langbridge_next_without_words_keeps_its_logits(adapter_type, vision, text, tmp_path):
    folder = save_trained(
        vision,
        text,
        tmp_path / "bridge",
        model_class=LangBridgeNextForConditionalGeneration,
        adapter_type=adapter_type,
    )
    bridge, processor = load_llava(str(folder))
    expected = logits_of(bridge, processor)
    model, lifted_processor, loss = lift(bridge, processor, all_words(processor))
    assert model.config.adapter_type == "langbridge" and loss.error < 1e-6 and loss.newline_error < 1e-6
    torch.testing.assert_close(logits_of(model, lifted_processor), expected, rtol=0, atol=1e-4)


def test_it_is_opened_in_words_without_being_written(checkpoint):
    model, processor, loss = open_in_words(str(checkpoint))
    assert type(model) is LangBridgeNextForConditionalGeneration and loss.newline_error < 1e-6
    llava, its_processor = open_any_adapter(str(checkpoint))
    assert type(llava) is LlavaNext and type(its_processor) is LangBridgeNextProcessor
    torch.testing.assert_close(logits_of(model, processor), logits_of(llava, its_processor), rtol=0, atol=1e-4)


def test_the_newlines_coefficients_are_the_shortest(parts):
    llava, processor = parts
    model, *_ = lift(llava, processor, all_words(processor))
    words = model.model.get_word_embeddings().double().numpy()
    coefficients = model.model.vocabulary_head(model.model.image_newline).detach().double().numpy()
    shortest = llava.model.image_newline.detach().double().numpy() @ np.linalg.pinv(words)
    np.testing.assert_allclose(coefficients, shortest, rtol=0, atol=1e-4 * np.abs(shortest).max())


def test_what_words_cannot_say_of_the_newline_is_told(parts):
    llava, processor = parts
    model, _, loss = lift(llava, processor, all_words(processor).first(20))
    words = model.model.get_word_embeddings().double().numpy()
    newline = llava.model.image_newline.detach().double().numpy()
    nearest = words.T @ np.linalg.lstsq(words.T, newline, rcond=1e-6)[0]
    expected = np.linalg.norm(nearest - newline) / np.linalg.norm(newline)
    assert expected > 0.1 and loss.newline_error == pytest.approx(expected, rel=1e-5)
    assert loss.error != loss.newline_error and f", the newline one of {expected:.2g}: the model only" in str(loss)


def test_lifted_and_exported_it_is_the_llava_next_it_was(parts):
    llava, processor = parts
    expected = logits_of(llava, processor)
    model, lifted_processor, _ = lift(llava, processor, all_words(processor))
    again, its_processor = to_llava(model, lifted_processor)
    assert type(again) is LlavaNext
    torch.testing.assert_close(again.model.image_newline, llava.model.image_newline, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits_of(again, its_processor), expected, rtol=0, atol=1e-4)


def test_the_lifted_adapter_goes_to_another_language_model(vision, parts, tmp_path):
    llava, processor = parts
    model, processor, _ = lift(llava, processor, all_words(processor))
    adapter = LangBridgeAdapter.from_model(model, processor.tokenizer)
    other = adapter.join(vision, save_language_model("gpt2", tmp_path / "text"))[0]
    assert type(other) is LangBridgeNextForConditionalGeneration
    newline = model.model.vocabulary_head(model.model.image_newline)
    torch.testing.assert_close(other.model.vocabulary_head(other.model.image_newline), newline)


@pytest.fixture(scope="module")
def checkpoint(vision, text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "llava"
    for part in make_llava(vision, text, LlavaNext):
        part.save_pretrained(folder)
    return folder


def test_the_script_lifts_what_is_in_a_folder(checkpoint, tmp_path, run_script):
    output = run_script("--model", checkpoint, "--output_dir", tmp_path / "lifted")
    assert re.search(r"error of \d(\.\d+)?e-0[789], the newline one of \d(\.\d+)?e-0[789]\.\n", output), output
    difference = re.search(r"differ from the LLaVA's by at most (\S+) \(the largest is", output)
    assert float(difference[1]) < 1e-4


def test_tiles_that_llava_next_cannot_put_together_are_refused(vision, text, tmp_path, run_script):
    full = make_llava(vision, text, LlavaNext, vision_feature_select_strategy="full")  # with CLS
    dinov2 = save_vision_tower("dinov2", tmp_path / "dinov2")  # reads images of any size
    small = make_llava(dinov2, text, LlavaNext)
    small[1].image_processor.size = small[1].image_processor.crop_size = {"height": 24, "width": 24}
    sentences = {
        "full": "`vision_feature_select_strategy` is full, which leaves 17 features of a tile of 16 patches: LLaVA-",
        "small": "The image processor makes tiles of 24 pixels, but LLaVA-NeXT takes them for tiles of .*, 32: give",
    }
    for (name, sentence), parts in zip(sentences.items(), (full, small), strict=True):
        for part in parts:
            part.save_pretrained(tmp_path / name)
        message = run_script("--model", tmp_path / name, "--output_dir", tmp_path / "lifted")
        assert re.match(f"lift.py: {sentence}", message), message
    assert not (tmp_path / "lifted").exists()

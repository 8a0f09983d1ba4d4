# SPDX-License-Identifier: Apache-2.0
"""A LangBridge-NeXT written as a stock LLaVA-NeXT: the same logits and answers for images of all sizes."""

import json
import re
from pathlib import Path

import pytest
import torch
from elsewhere import logits_elsewhere
from paths import SCRIPTS
from safetensors.torch import load_file
from tiny_parts import ask, make_image, save_language_model, save_vision_tower
from trained_langbridge import D, open_folder, save_trained
from transformers import AutoImageProcessor, LlavaNextForConditionalGeneration, LlavaNextProcessor

from modeling_langbridge import LangBridgeNextForConditionalGeneration
from modeling_langbridge.conversion.to_llava import to_llava


SCRIPT = SCRIPTS / "export.py"
# Wide, high, square, smaller than a tile, one pixel high. (width, height)
SIZES = [(90, 60), (40, 160), (300, 300), (10, 12), (50, 1)]
QUESTION = "<image>where is the green dog?"


def save_next(vision: str, text: str, folder: Path, **fields) -> Path:
    return save_trained(vision, text, folder, model_class=LangBridgeNextForConditionalGeneration, **fields)


@torch.no_grad()
def read(model, processor, colour: str = "green") -> tuple[torch.Tensor, list[str]]:
    """The logits for one picture of each size in a batch, and the answers."""
    images = [make_image(colour, size) for size in SIZES]
    inputs = processor(images=images, text=[QUESTION] * len(SIZES), return_tensors="pt", padding=True)
    answers = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    return model(**inputs).logits, processor.batch_decode(answers)


def assert_same(llava: Path, langbridge: Path) -> None:
    model, processor = open_folder(langbridge)
    logits, answers = read(model, processor)
    assert (logits - read(model, processor, "red")[0]).abs().max() > 0.1  # the picture is seen
    llava, llava_processor = open_folder(llava)
    llava_processor.tokenizer.padding_side = "left"
    assert type(llava) is LlavaNextForConditionalGeneration and type(llava_processor) is LlavaNextProcessor
    llava_logits, llava_answers = read(llava, llava_processor)
    assert (llava_logits - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert llava_answers == answers


@pytest.fixture
def run_export(run_script, tmp_path):
    def run(model: Path, *arguments) -> str:
        return run_script("--model", model, "--output_dir", tmp_path / "llava", *arguments)

    return run


@pytest.fixture(scope="module")
def langbridge(vision, text, tmp_path_factory) -> Path:
    return save_next(vision, text, tmp_path_factory.mktemp("run") / "bridge")


@pytest.mark.parametrize(
    ("tower", "language_model", "fields"),
    [
        ("clip", "qwen2", {}),
        ("siglip", "gemma3", {"vision_feature_layer": -1}),
        ("dinov2", "gpt2", {"projector_hidden_size": D, "vision_feature_layer": [-2, -1]}),
        ("clip", "llama2", {"adapter_type": "mlp"}),
        ("clip", "qwen2", {"adapter_type": "linear", "multimodal_projector_bias": False}),
    ],
)
def test_logits_and_answers_are_those_of_the_langbridge(tower, language_model, fields, tmp_path, run_export):
    vision = save_vision_tower(tower, tmp_path / "vision")
    text = save_language_model(language_model, tmp_path / "text")
    folder = save_next(vision, text, tmp_path / "bridge", **fields)
    message = run_export(folder)
    assert "The LLaVA is in" in message, message
    assert_same(tmp_path / "llava", folder)


@torch.no_grad()
def test_the_newline_is_its_visual_token(langbridge):
    model, processor = open_folder(langbridge)
    newline = to_llava(model, processor)[0].model.image_newline
    coefficients = model.model.vocabulary_head.get_coefficients(model.model.image_newline)
    expected = coefficients @ model.model.get_word_embeddings()
    torch.testing.assert_close(newline.data, expected, rtol=1e-4, atol=1e-5)
    assert newline.requires_grad and newline.shape == (D,)


def test_what_is_written_is_stock_llava_nexts(langbridge, run_export, tmp_path):
    assert "The LLaVA is in" in run_export(langbridge, "--dtype", "bfloat16")
    for path in (tmp_path / "llava").glob("*.json"):
        assert not re.search("auto_map|langbridge", path.read_text(), re.IGNORECASE), path
    assert not list((tmp_path / "llava").glob("*.py"))
    written = load_file(tmp_path / "llava" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert "image_newline" in written and "vision_tower.vision_model.embeddings.patch_embedding.weight" in written
    config = json.loads((tmp_path / "llava" / "config.json").read_text())
    assert config["architectures"] == ["LlavaNextForConditionalGeneration"] and config["model_type"] == "llava_next"
    expected = json.loads((langbridge / "config.json").read_text())
    assert config["image_grid_pinpoints"] == expected["image_grid_pinpoints"]


@torch.no_grad()
def test_a_fresh_process_gives_the_langbridges_logits(langbridge, run_export, tmp_path):
    run_export(langbridge)
    picture = make_image("green", (90, 60))
    found = logits_elsewhere(tmp_path / "llava", picture, tmp_path / "there")
    model, processor = open_folder(langbridge)
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    expected = model(**processor.apply_chat_template(ask(picture), add_generation_prompt=True, **options)).logits
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_stock_llava_next_cannot_do_is_refused_in_one_sentence(vision, text, tmp_path, run_export):
    convolutions = save_vision_tower("mobilenet_v2", tmp_path / "convolutions")
    message = run_export(save_next(convolutions, text, tmp_path / "map"))
    assert re.fullmatch("export.py: The vision tower, of type `mobilenet_v2`, returns a feature map, .*", message)

    dinov2 = save_vision_tower("dinov2", tmp_path / "dinov2")  # reads images of any size
    small = AutoImageProcessor.from_pretrained(dinov2, size={"height": 24, "width": 24}, do_center_crop=False)
    message = run_export(save_next(dinov2, text, tmp_path / "small", image_processor=small))
    assert re.fullmatch("export.py: The image processor makes tiles of 24 pixels, but .*, 32: give an .*", message)

    folder = save_next(vision, text, tmp_path / "words", coefficient_activation="softmax", words_per_image=3)
    assert re.fullmatch("export.py: `words_per_image` is 3, but .*--distill_images.", run_export(folder))
    assert not (tmp_path / "llava").exists()

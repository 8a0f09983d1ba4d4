# SPDX-License-Identifier: Apache-2.0
"""Pooled patches: squares of them are averaged before the projector, and whatever counts or shows patches follows."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_parts import SENTENCES, make_image, save_other_language_model, save_vision_tower
from torch.nn import functional as F

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeNextForConditionalGeneration,
    SharedVocabulary,
    lift,
    to_llava,
    transfer,
)
from modeling_langbridge.reading.explaining import explain
from modeling_langbridge.reading.patch_words import crop_to_patches


CLASSES = [LangBridgeForConditionalGeneration, LangBridgeNextForConditionalGeneration]
SIZES = [(90, 60), (40, 160), (300, 300)]


def compose(model_class, vision, text, pool_patches=2, words_per_image=None, **fields):
    processor = model_class.processor_class.from_vision_text_pretrained(
        vision, text, words_per_image=words_per_image, pool_patches=pool_patches
    )
    torch.manual_seed(0)
    words = SharedVocabulary.build([processor.tokenizer], SENTENCES)
    model = model_class.from_vision_text_pretrained(vision, text, words, processor, projector_hidden_size=24, **fields)
    return model, processor


def read(processor, sizes=SIZES):
    images = [make_image("red", size=size) for size in sizes]
    return processor(images=images, text=["<image>what?"] * len(sizes), return_tensors="pt", padding=True)


@pytest.mark.parametrize("tower", ["clip", "siglip", "mobilenet_v2"])
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_visual_token_is_made_of_the_mean_of_a_square_of_patches(model_class, tower, text, tmp_path):
    vision = save_vision_tower(tower, tmp_path / tower)
    model, processor = compose(model_class, vision, text)
    inputs = read(processor)
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
    pixel_values = inputs["pixel_values"].flatten(0, -4)
    pooled = model.model.get_vision_features(pixel_values).pooler_output  # (images, squares, d_v)
    model.config.pool_patches = 1
    patches = model.model.get_vision_features(pixel_values).pooler_output  # (images, patches, d_v)
    model.config.pool_patches = 2
    length = int(patches.shape[1] ** 0.5)
    expected = F.avg_pool2d(patches.transpose(1, 2).unflatten(2, (length, length)), 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled, expected)
    counts = (inputs["input_ids"] == processor.image_token_id).sum(1).tolist()
    tokens = model.get_image_features(**images).pooler_output
    assert [len(image) for image in tokens] == counts
    assert model.config.image_seq_length == pooled.shape[1] == patches.shape[1] // 4
    model(**inputs)


@pytest.mark.parametrize("model_class", CLASSES)
def test_an_explanation_shows_squares(model_class, vision, text):
    model, processor = compose(model_class, vision, text, coefficient_activation="gated_softmax")
    _, plain = compose(model_class, vision, text, pool_patches=1)
    for size in SIZES:
        image = make_image("red", size=size)
        _, fine = crop_to_patches(plain, image)
        explanation = explain(model, processor, image, num_layers=1)
        assert len(explanation.views) == 3
        for coarse, number in zip(explanation.grid, fine, strict=True):
            assert abs(2 * coarse - number) <= 2  # the padding around is cut by whole squares


@pytest.mark.parametrize("model_class", CLASSES)
def test_words_of_an_image_are_picked_from_its_squares(model_class, vision, text):
    model, processor = compose(model_class, vision, text, words_per_image=4, coefficient_activation="gated_softmax")
    inputs = read(processor)
    assert ((inputs["input_ids"] == processor.image_token_id).sum(1) == 4).all()
    model(**inputs)


@pytest.mark.parametrize("model_class", CLASSES)
def test_saving_a_transfer_and_an_adapter_keep_it(model_class, vision, text, tmp_path):
    model, processor = compose(model_class, vision, text)
    inputs = read(processor)
    expected = model(**inputs).logits
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    adapter = LangBridgeAdapter.from_model(model, processor.tokenizer)
    adapter.save_pretrained(tmp_path / "adapter")
    moved, moved_processor = transfer(model, processor, save_other_language_model(tmp_path / "other"))
    for again, its_processor in (
        (
            model_class.from_pretrained(tmp_path / "model"),
            model_class.processor_class.from_pretrained(tmp_path / "model"),
        ),
        LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(vision, text),
        transfer(moved, moved_processor, text),
    ):
        assert all(torch.equal(value, inputs[name]) for name, value in read(its_processor).items())
        torch.testing.assert_close(again(**inputs).logits, expected)
    whole, _ = adapter.join(vision, text, pool_patches=1, model_class=model_class)
    assert whole.config.pool_patches == 1


def test_what_cannot_be_pooled_or_exported_is_refused(vision, text, tmp_path):
    for pool_patches in (3, 8):
        with pytest.raises(ValueError, match=f"`pool_patches` is {pool_patches}, but .* 4 x 4 patches and 1 tokens"):
            compose(LangBridgeForConditionalGeneration, vision, text, pool_patches)
    model, processor = compose(LangBridgeForConditionalGeneration, vision, text, adapter_type="mlp")
    with pytest.raises(StrictDataclassError, match="`pool_patches` must be at least 1, but is 0"):
        type(model.config)(**{**model.config.to_dict(), "pool_patches": 0})
    with pytest.raises(ValueError, match="`pool_patches` is 2, but stock LLaVA reads a token per patch"):
        to_llava(model, processor)


def test_a_langbridge_without_words_is_lifted_with_it(vision, text):
    model, processor = compose(LangBridgeForConditionalGeneration, vision, text, adapter_type="mlp")
    inputs = read(processor)
    words = SharedVocabulary.build([processor.tokenizer], SENTENCES)
    lifted, its_processor, _ = lift(model, processor, words)
    assert lifted.config.pool_patches == 2
    assert torch.equal(read(its_processor)["input_ids"], inputs["input_ids"])
    lifted(**inputs)

# SPDX-License-Identifier: Apache-2.0
"""Any vision tower, whether transformer or convolutional, alone or inside a larger model."""

import pytest
import torch
from tiny_parts import VISION_TOWERS, ask, make_image, save_vision_tower
from transformers import (
    AutoModel,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SwinConfig,
    SwinModel,
    ViTImageProcessorPil,
)

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


def compose(vision, text, **fields):
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40, **fields
    )
    return processor, model


@pytest.mark.parametrize("name", VISION_TOWERS)
def test_a_tower_joins_a_language_model_and_the_pair_reads_images(name, text, tmp_path):
    vision = save_vision_tower(name, tmp_path / "vision")
    processor, model = compose(vision, text)
    _, _, tokens, width = VISION_TOWERS[name]
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    assert (inputs.input_ids == processor.image_token_id).sum() == tokens == model.config.image_seq_length
    assert model.model.multi_modal_projector.linear_1.in_features == width
    with torch.no_grad():
        red = model(**inputs).logits
        blue = model(**{**inputs, "pixel_values": inputs["pixel_values"].flip(1)}).logits
        coefficients = model.get_image_coefficients(inputs["pixel_values"])  # (1, tokens, V)
        visual_tokens = model.get_image_features(inputs["pixel_values"]).pooler_output[0]  # (tokens, d)
    assert not torch.equal(red, blue)
    assert coefficients.shape == (1, tokens, 60)
    words = model.get_input_embeddings()(model.model.vocabulary_head.token_ids)
    torch.testing.assert_close(coefficients[0] @ words, visual_tokens)

    model.save_pretrained(tmp_path / "model")
    reloaded = LangBridgeForConditionalGeneration.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(reloaded(**inputs).logits, red)


@pytest.mark.parametrize("name", ["clip", "whole_siglip", "resnet"])
def test_the_towers_own_weights_are_taken_over(name, text, tmp_path):
    vision = save_vision_tower(name, tmp_path / "vision")
    _, model = compose(vision, text)
    original = AutoModel.from_pretrained(vision)
    tower = original.vision_model if name.startswith("whole") else original
    ours = model.model.vision_tower.state_dict()
    assert ours.keys() == tower.state_dict().keys()
    assert all(torch.equal(ours[key], value) for key, value in tower.state_dict().items())


def test_loaded_models_compose_as_folders_do(vision, text):
    processor, from_folders = compose(vision, text)
    tower = AutoModel.from_pretrained(vision)
    torch.manual_seed(0)
    _, one = compose(tower, text)
    torch.manual_seed(0)
    _, other = compose(vision, text)
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(one(**inputs).logits, other(**inputs).logits)


def test_several_feature_layers_are_joined(vision, text):
    processor, model = compose(vision, text, vision_feature_layer=[-2, -1])
    assert model.model.multi_modal_projector.linear_1.in_features == 48
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("layer", [0, 1, -2], ids=["embeddings", "from the front", "from the end"])
def test_the_states_of_the_chosen_layer_are_read(layer, vision, text):
    _, model = compose(vision, text, vision_feature_layer=layer)
    pixel_values = torch.randn(2, 3, 32, 32)
    states = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[layer]
    assert torch.equal(model.model.get_vision_features(pixel_values).pooler_output, states[:, 1:])


def test_features_computed_before_stand_where_pixels_stood(model, processor):
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
        coefficients = model.get_image_coefficients(inputs["pixel_values"])
        features = model.model.get_vision_features(inputs["pixel_values"]).pooler_output  # (1, tokens, d_v)
        assert torch.equal(model(**{**inputs, "pixel_values": features}).logits, expected)
        assert torch.equal(model.get_image_coefficients(features), coefficients)
        assert model.get_image_features(features[:0]).pooler_output[0].shape == (0, 32)  # of text alone


def test_the_tower_keeps_the_states_of_that_layer_alone(vision, text):
    _, model = compose(vision, text)
    kept = model.model.get_vision_features(torch.randn(2, 3, 32, 32)).hidden_states
    assert [index for index, states in enumerate(kept) if states is not None] == [2]


def test_a_frozen_convolutional_tower_keeps_its_batch_statistics_in_training(text, tmp_path):
    _, model = compose(save_vision_tower("resnet", tmp_path), text)
    model.model.vision_tower.requires_grad_(False)
    model.train()
    before = {name: buffer.clone() for name, buffer in model.model.vision_tower.named_buffers()}
    model.get_image_features(torch.randn(4, 3, 64, 64))
    assert all(torch.equal(before[name], buffer) for name, buffer in model.model.vision_tower.named_buffers())


def test_features_of_another_width_are_refused_by_name(model):
    with pytest.raises(
        ValueError, match="features are 30 wide, but `vision_config.hidden_size` .* made the projector for 24"
    ):
        model.model.adapt(torch.randn(1, 16, 30))


def test_a_tower_whose_tokens_are_no_grid_of_its_patches_is_refused(text):
    swin = SwinModel(SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4))
    with pytest.raises(ValueError, match="`swin` gives 64 tokens for an image of 64 x 64 pixels, not a grid of 4"):
        LangBridgeProcessor.from_vision_text_pretrained(swin, text, image_processor=ViTImageProcessorPil(size=64))


def test_a_tower_of_native_resolution_is_refused(text):
    tower = Siglip2VisionModel(Siglip2VisionConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="`siglip2_vision_model` needs .*spatial_shapes.* fixed-resolution"):
        LangBridgeProcessor.from_vision_text_pretrained(tower, text, image_processor=Siglip2ImageProcessorPil())


def test_a_loaded_tower_without_a_folder_needs_its_image_processor(text):
    tower = AutoModel.from_config(VISION_TOWERS["clip"][0])
    with pytest.raises(ValueError, match="needs the argument `image_processor`"):
        LangBridgeProcessor.from_vision_text_pretrained(tower, text)

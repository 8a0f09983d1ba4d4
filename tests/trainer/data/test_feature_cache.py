# SPDX-License-Identifier: Apache-2.0
"""The feature cache: equal to the tower, computed once, saved and loaded, and out of the way of saving."""

import pytest
import torch
from tiny_parts import make_image
from transformers import CLIPVisionConfig, CLIPVisionModel, MobileNetV2Config, MobileNetV2Model

from trainer.data.feature_cache import FeatureCache


@pytest.fixture
def tower():
    torch.manual_seed(0)
    tower = MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=0.25))
    for parameter in tower.parameters():
        if parameter.ndim == 4:  # the library's own initial weights are so small that all images look alike
            torch.nn.init.kaiming_normal_(parameter)
    return tower


@pytest.fixture
def images():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_cache_gives_the_towers_features_as_map_and_as_tokens(tower, images):
    expected = tower.eval()(images).last_hidden_state  # (4, d_v, 2, 2)
    assert expected.std(0).max() > 0.1 and expected.std((2, 3)).max() > 0.1
    output = FeatureCache(tower)(images)
    torch.testing.assert_close(output.last_hidden_state, expected, atol=5e-3, rtol=1e-3)
    for row in range(2):
        for column in range(2):
            assert torch.equal(
                output.hidden_states[-1][:, 2 * row + column], output.last_hidden_state[..., row, column]
            )


def test_cache_keeps_token_states_as_they_are():
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    tower, images = CLIPVisionModel(config), torch.rand(2, 3, 16, 16)
    output = FeatureCache(tower)(images)
    expected = tower(images).last_hidden_state
    torch.testing.assert_close(output.last_hidden_state, expected, atol=5e-3, rtol=1e-3)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_a_langbridge_reads_the_same_features_through_the_cache(model, processor, layer):
    pixel_values = processor.image_processor([make_image(), make_image("blue")], return_tensors="pt")["pixel_values"]
    model.config.vision_feature_layer = layer
    expected = model.model.get_vision_features(pixel_values).pooler_output  # (2, tokens, d_v)
    with FeatureCache(model.model.vision_tower, layer).standing_in_for_tower(model.model):
        for _ in range(2):
            found = model.model.get_vision_features(pixel_values).pooler_output
            torch.testing.assert_close(found, expected, atol=5e-3, rtol=1e-3)


def test_tower_runs_once_per_image_whatever_the_batch(tower, images):
    seen = []
    tower.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    cache = FeatureCache(tower)
    first = cache(images[:3]).last_hidden_state
    again = cache(images[[3, 1, 0]]).last_hidden_state
    assert seen == [3, 1] and len(cache) == 4
    assert torch.equal(again[1:], first[[1, 0]])


def test_tower_stays_in_eval_mode_and_frozen_inside_a_model_that_trains(tower, images):
    cache = FeatureCache(tower)
    torch.nn.Sequential(cache).train()
    statistics = {name: buffer.clone() for name, buffer in tower.named_buffers()}
    assert not cache(images).last_hidden_state.requires_grad
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in tower.named_buffers())


def test_saved_features_are_found_again_by_another_tower_that_never_runs(tower, images, tmp_path):
    cache = FeatureCache(tower)
    expected = cache(images).last_hidden_state
    cache.save(tmp_path / "features.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["features.safetensors"]

    other = MobileNetV2Model(tower.config)
    other.register_forward_hook(lambda *_: pytest.fail("the tower ran on an image that was loaded"))
    loaded = FeatureCache(other)
    loaded.load(tmp_path / "features.safetensors")
    assert torch.equal(loaded(images.flip(0)).last_hidden_state, expected.flip(0))


def test_model_has_its_own_tower_back_after_the_block_even_after_an_error(tower, images):
    model = torch.nn.Module()
    model.vision_tower = tower
    names = set(model.state_dict())
    cache = FeatureCache(tower)
    with pytest.raises(KeyboardInterrupt), cache.standing_in_for_tower(model):
        assert model.vision_tower is cache
        raise KeyboardInterrupt
    assert model.vision_tower is tower and set(model.state_dict()) == names


def test_empty_cache_and_foreign_file_are_refused(tower, images, tmp_path):
    with pytest.raises(ValueError, match="no features to save"):
        FeatureCache(tower).save(tmp_path / "features.safetensors")
    tower.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no image features"):
        FeatureCache(tower).load(tmp_path / "model.safetensors")

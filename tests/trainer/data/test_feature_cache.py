# SPDX-License-Identifier: Apache-2.0
"""The feature cache: equal to the tower, computed once, saved and loaded, and out of the way of saving."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_parts import make_image
from transformers import CLIPVisionConfig, CLIPVisionModel, MobileNetV2Config, MobileNetV2Model

from trainer.data import feature_cache
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


def test_features_beyond_half_precision_are_refused_and_not_kept(tower, images):
    cache = FeatureCache(tower)
    with torch.no_grad():
        for parameter in tower.conv_1x1.parameters():
            parameter.mul_(1e6)
        tower.conv_1x1.activation = torch.nn.Identity()  # which clips at 6
    with pytest.raises(
        ValueError, match="MobileNetV2Model gives features that are not finite, or beyond half precision"
    ):
        cache(images)
    assert len(cache) == 0


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


def reload(tower, folder):
    """The tower as it was saved, which fails where it runs."""
    tower.save_pretrained(folder)
    reloaded = type(tower).from_pretrained(folder)
    reloaded.register_forward_hook(lambda *_: pytest.fail("the tower ran on an image that was loaded"))
    return reloaded


def test_saved_features_are_found_again_by_the_tower_from_another_place_without_running_it(tower, images, tmp_path):
    cache = FeatureCache(tower, folder=tmp_path / "features")
    expected = cache(images).last_hidden_state
    cache.save()
    loaded = FeatureCache(reload(tower, tmp_path / "tower"), folder=tmp_path / "features")
    assert torch.equal(loaded(images.flip(0)).last_hidden_state, expected.flip(0))
    loaded.save()
    (file,) = (tmp_path / "features").iterdir()  # nothing is written twice
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("bf16", [False, True])
def test_features_are_on_disk_before_the_run_ends(tower, images, tmp_path, monkeypatch, bf16):
    monkeypatch.setattr(feature_cache, "SECONDS_BETWEEN_SAVES", 0)
    cache = FeatureCache(tower, folder=tmp_path / "features")
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        cache(images[:3])
        cache(images[1:])
    # A killed process closes nothing: what another one finds now is all there is.
    assert len(FeatureCache(tower, folder=tmp_path / "features")) == 4
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_features_are_not_written_at_every_batch(tower, images, tmp_path):
    cache = FeatureCache(tower, folder=tmp_path / "features")
    cache(images)
    assert not (tmp_path / "features").exists()


def test_processes_that_share_a_folder_keep_the_features_of_each(tower, images, tmp_path):
    caches = [FeatureCache(tower, folder=tmp_path / "features") for _ in range(2)]
    for cache, part in zip(caches, (images[:2], images[1:]), strict=True):
        cache(part)
        cache.save()
    assert len(FeatureCache(tower, folder=tmp_path / "features")) == 4


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda tower: {"tower": with_weights_moved(tower, "parameters")}, "weights"),
        (lambda tower: {"tower": with_weights_moved(tower, "buffers")}, "weights"),
        (lambda tower: {"tower": with_setting(tower, "layer_norm_eps", 0.5)}, "settings"),
        (lambda tower: {"tower": tower.bfloat16()}, "weights, dtype"),
        (lambda tower: {"tower": tower, "vision_feature_layer": -2}, "layer"),
    ],
    ids=["weights", "statistics", "settings", "dtype", "layer"],
)
def test_features_of_another_tower_are_refused(tower, images, tmp_path, change, difference):
    cache = FeatureCache(tower, folder=tmp_path / "features")
    cache(images)
    cache.save()
    with pytest.raises(ValueError, match=rf"another tower \(it differs in its {difference}\): name another folder"):
        FeatureCache(**change(tower), folder=tmp_path / "features")


@torch.no_grad()
def with_weights_moved(tower, kind):
    tensors = [tensor for tensor in getattr(tower, kind)() if tensor.is_floating_point()]
    tensors[0].view(-1)[0] += 1e-3
    return tower


def with_setting(tower, name, value):
    setattr(tower.config, name, value)
    return tower


def test_other_pixels_of_the_same_photo_and_another_precision_are_computed_anew(tower, images, tmp_path):
    cache = FeatureCache(tower)
    cache(images)
    cache(images * 0.9)  # another image processor
    with torch.autocast("cpu", torch.bfloat16):
        cache(images)
    assert len(cache) == 12


def test_model_has_its_own_tower_back_after_the_block_even_after_an_error(tower, images):
    model = torch.nn.Module()
    model.vision_tower = tower
    names = set(model.state_dict())
    cache = FeatureCache(tower)
    with pytest.raises(KeyboardInterrupt), cache.standing_in_for_tower(model):
        assert model.vision_tower is cache
        raise KeyboardInterrupt
    assert model.vision_tower is tower and set(model.state_dict()) == names


def damaged(folder):
    (folder / "features-0.safetensors").write_bytes(b"half")


def without_metadata(folder):
    tensors = {"keys": torch.zeros(1, 16, dtype=torch.uint8), "features": torch.zeros(1, 2)}
    save_file(tensors, folder / "features-0.safetensors")


def foreign(folder):
    (folder / "notes.txt").write_text("mine")


def a_file(folder):
    folder.rmdir()
    folder.write_text("mine")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (damaged, "features-0.safetensors is damaged, or no file of image features"),
        (without_metadata, "another tower"),
        (foreign, "holds something else than image features: name another folder"),
        (a_file, "is a file, but features are kept in a folder"),
    ],
)
def test_a_folder_that_holds_no_features_is_refused(tower, tmp_path, spoil, sentence):
    (tmp_path / "features").mkdir()
    spoil(tmp_path / "features")
    with pytest.raises(ValueError, match=sentence):
        FeatureCache(tower, folder=tmp_path / "features")


def test_a_place_that_cannot_be_written_is_named(tower, images, tmp_path):
    (tmp_path / "file").touch()
    cache = FeatureCache(tower, folder=tmp_path / "file" / "features")
    cache(images)
    with pytest.raises(OSError, match="features could not be written to .*file/features"):
        cache.save()

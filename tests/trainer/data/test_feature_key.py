# SPDX-License-Identifier: Apache-2.0
"""Features are never stale: whatever lies between an image and the adapter makes others of them."""

import pytest
import torch
from cached_features import open_cache
from tiny_parts import make_image, save_vision_tower
from transformers import SiglipImageProcessorPil

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data import feature_key
from trainer.data.feature_cache import FeatureCache
from trainer.data.feature_key import describe_features, hash_content, read_content


@torch.no_grad()
def move(tensor):
    tensor.view(-1)[0] += 1e-3


def set_to(what, name, value):
    setattr(what, name, value)


CHANGES = {
    "weights": lambda model, processor: move(model.model.vision_tower.post_layernorm.weight),
    "settings": lambda model, processor: set_to(model.model.vision_tower.config, "layer_norm_eps", 0.5),
    "dtype": lambda model, processor: model.model.vision_tower.bfloat16(),
    "vision_feature_layer": lambda model, processor: set_to(model.config, "vision_feature_layer", -1),
    "vision_feature_layer: several": lambda model, processor: set_to(model.config, "vision_feature_layer", [-2, -1]),
    "vision_feature_select_strategy": lambda model, processor: set_to(
        model.config, "vision_feature_select_strategy", "full"
    ),
    "pool_patches": lambda model, processor: set_to(model.config, "pool_patches", 2),
    "image_processor_settings": lambda model, processor: set_to(
        processor.image_processor, "image_mean", [0.5, 0.5, 0.5]
    ),
    "image_processor_settings: the filter": lambda model, processor: set_to(processor.image_processor, "resample", 2),
    "image_processor": lambda model, processor: set_to(
        processor, "image_processor", SiglipImageProcessorPil(**processor.image_processor.to_dict())
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_features_has_a_folder_of_its_own(model, processor, tmp_path, change):
    before = open_cache(model, processor, tmp_path)
    CHANGES[change](model, processor)
    after = open_cache(model, processor, tmp_path)
    assert before.identity[change.partition(":")[0]] != after.identity[change.partition(":")[0]]
    assert before.folder != after.folder


def test_the_batch_statistics_of_a_tower_count(text, tmp_path):
    vision = save_vision_tower("resnet", tmp_path / "resnet")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    parts = vision, text, [100, 101], processor
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(*parts, projector_hidden_size=8)
    before = open_cache(model, processor, tmp_path).folder
    move(next(buffer for buffer in model.model.vision_tower.buffers() if buffer.is_floating_point()))
    assert open_cache(model, processor, tmp_path).folder != before


def test_the_precision_and_the_code_count(model, processor, tmp_path, monkeypatch):
    image_processor = processor.image_processor
    first = describe_features(model, image_processor)
    mixed = describe_features(model, image_processor, "bf16")
    monkeypatch.setattr(feature_key, "CODE", ("image_opening.py",))
    other_code = describe_features(model, image_processor)
    folders = {FeatureCache(tmp_path, identity).folder for identity in (first, mixed, other_code)}
    assert len(folders) == 3


def test_what_does_not_change_the_features_does_not_count(model, processor, tmp_path):
    before = open_cache(model, processor, tmp_path).folder
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight.zero_()
    model.config.vision_config.name_or_path = "elsewhere"
    model.config.vision_config.id2label = {0: "dog"}
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    reloaded = LangBridgeForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert open_cache(reloaded, type(processor).from_pretrained(tmp_path / "model"), tmp_path).folder == before


def test_an_image_is_known_by_its_bytes_wherever_they_lie(tmp_path):
    make_image().save(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    (tmp_path / "two.png").write_bytes(content)
    forms = [str(tmp_path / "one.png"), tmp_path / "two.png", content, {"bytes": content, "path": "x"}]
    assert len({hash_content(read_content(image)) for image in forms}) == 1


def test_exif_and_transparency_make_other_images(tmp_path):
    plain, turned = make_image(), make_image()
    plain.save(tmp_path / "plain.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    clear = make_image().convert("RGBA")
    clear.putalpha(0)
    images = [
        str(tmp_path / "plain.jpg"),
        str(tmp_path / "turned.jpg"),
        make_image(),
        clear,
        make_image(size=(40, 48)),
    ]
    assert len({hash_content(read_content(image)) for image in images}) == 5


def test_pixels_of_another_shape_are_another_image():
    white = [make_image("white", size) for size in ((40, 48), (48, 40))]
    assert len({hash_content(read_content(image)) for image in white}) == 2

# SPDX-License-Identifier: Apache-2.0
"""The feature cache: equal to the tower, computed once, whole files, read by map and by several processes."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from cached_features import fill, make_computer, open_cache, rows_of
from safetensors.torch import load_file, save_file
from tiny_parts import VISION_TOWERS, make_image, save_vision_tower
from tiny_training import COLOURS
from torch.utils.data import DataLoader

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data import feature_cache
from trainer.data.faults import SampleError
from trainer.data.feature_cache import FeatureCache
from trainer.data.images import open_image


@pytest.fixture
def photos(tmp_path) -> list[str]:
    for colour in COLOURS:
        make_image(colour).save(tmp_path / f"{colour}.png")
    return [str(tmp_path / f"{colour}.png") for colour in COLOURS]


def pixels_of(processor, images: list) -> torch.Tensor:
    return processor.image_processor(list(map(open_image, images)), return_tensors="pt")["pixel_values"]


def fail_at(tower) -> None:
    """A tower that fails where it runs, but for the blank image that says the features' shape."""

    def check(module, inputs):
        if inputs[0].unique().numel() > 3:
            pytest.fail("the tower ran on an image whose features were there")

    tower.register_forward_pre_hook(check)


LAYERS = {"clip": [-2, -1, 1, [-2, -1], [0, 2, -1]], "dinov2": [-2, [-2, -1]], "siglip": [-2, [-2, -1]]}


@pytest.mark.parametrize(
    ("name", "layer"), [(name, layer) for name in VISION_TOWERS for layer in LAYERS.get(name, [-2])], ids=str
)
def test_every_tower_and_layer_reads_from_the_cache_what_the_tower_gives(name, layer, text, photos, tmp_path):
    vision = save_vision_tower(name, tmp_path / "vision")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, [100, 101], processor, projector_hidden_size=8, vision_feature_layer=layer
    )
    cache = fill(model, processor, tmp_path / "features", photos)
    expected = model.model.get_vision_features(pixels_of(processor, photos)).pooler_output  # (4, tokens, d_v)
    assert expected.std(0).max() > 1e-3
    found = cache.stack([cache.read(photo) for photo in photos])["pixel_values"]
    assert found.dtype == torch.float16
    # Half of the last of float16's eleven bits.
    torch.testing.assert_close(found.float(), expected, rtol=2**-11, atol=1e-4)


def test_pooled_patches_are_kept_pooled(vision, text, photos, tmp_path):
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, pool_patches=2)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, [100, 101], processor, projector_hidden_size=8
    )
    cache = fill(model, processor, tmp_path / "features", photos)
    expected = model.model.get_vision_features(pixels_of(processor, photos)).pooler_output
    assert cache.read(photos[0]).shape == expected.shape[1:] == (4, 24)
    torch.testing.assert_close(cache.read(photos[0]).float(), expected[0], rtol=2**-11, atol=1e-4)


def test_an_image_of_many_rows_or_names_is_computed_and_kept_once(model, processor, photos, tmp_path):
    shutil.copy(photos[0], tmp_path / "copy.png")
    seen = []
    model.model.vision_tower.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    cache = fill(model, processor, tmp_path / "features", [*photos * 3, str(tmp_path / "copy.png")])
    assert seen == [1, 3, 1]  # the first a blank one, for the shape
    assert len(cache) == 4 and sum(len(load_file(shard)["keys"]) for shard in cache.shards) == 4
    assert torch.equal(cache.read(str(tmp_path / "copy.png")), cache.read(photos[0]))
    assert torch.equal(
        cache.read({"bytes": Path(photos[0]).read_bytes(), "path": "elsewhere.png"}), cache.read(photos[0])
    )


def test_images_without_a_file_are_known_by_their_pixels(model, processor, tmp_path):
    pictures = [make_image("red"), make_image("blue"), make_image("red").convert("RGBA")]
    cache = open_cache(model, processor, tmp_path / "features")
    computer = make_computer(model, processor)
    keys, pixels = zip(*map(computer.prepare, pictures), strict=True)
    cache.add(keys, computer.compute(pixels))
    cache.save()
    cache.refresh()
    assert len(cache) == 2
    assert torch.equal(cache.read(make_image("red")), cache.read(pictures[2]))
    with pytest.raises(SampleError, match="an image is not in the feature cache"):
        cache.read(make_image("green"))


def test_features_are_there_for_the_same_tower_from_another_place_and_it_does_not_run(
    model, processor, photos, tmp_path
):
    expected = fill(model, processor, tmp_path / "features", photos).read(photos[1])
    model.save_pretrained(tmp_path / "model")
    reloaded = LangBridgeForConditionalGeneration.from_pretrained(tmp_path / "model")
    fail_at(reloaded.model.vision_tower)
    again = fill(reloaded, processor, tmp_path / "features", photos)
    assert torch.equal(again.read(photos[1]), expected) and len(again.shards) == 1


def test_a_file_that_changes_is_another_image(model, processor, photos, tmp_path):
    cache = fill(model, processor, tmp_path / "features", photos)
    stat = os.stat(photos[0])
    shutil.copy(photos[1], photos[0])
    os.utime(photos[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))  # which say nothing
    assert torch.equal(cache.read(photos[0]), cache.read(photos[1]))
    make_image("black").save(photos[0])
    with pytest.raises(SampleError, match=r"the image .*red\.png is not in the feature cache: it has changed since"):
        cache.read(photos[0])


def test_a_tower_in_bfloat16_is_kept_to_the_bit(model, processor, photos, tmp_path):
    model.bfloat16()
    cache = fill(model, processor, tmp_path / "features", photos, batch_size=4)
    expected = model.model.get_vision_features(pixels_of(processor, photos).bfloat16()).pooler_output
    found = cache.stack([cache.read(photo) for photo in photos])["pixel_values"]
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


@pytest.mark.parametrize("factor", [1e6, float("nan")])
def test_features_beyond_float16_are_kept_in_bfloat16_and_those_that_are_no_numbers_refused(
    model, processor, photos, tmp_path, factor
):
    model.config.vision_feature_layer = 0
    with torch.no_grad():
        model.model.vision_tower.pre_layrnorm.weight.mul_(factor)
    if factor != factor:
        with pytest.raises(ValueError, match="CLIPVisionModel gives features that are not finite"):
            fill(model, processor, tmp_path / "features", photos)
        assert not list((tmp_path / "features").rglob("*.safetensors"))
        return
    cache = fill(model, processor, tmp_path / "features", photos)
    expected = model.model.get_vision_features(pixels_of(processor, photos)).pooler_output
    assert expected.max() > torch.finfo(torch.float16).max
    torch.testing.assert_close(cache.read(photos[2]).float(), expected[2], rtol=2**-8, atol=0)


def test_files_are_of_a_size_and_one_is_only_mapped(model, processor, tmp_path, monkeypatch):
    cache = open_cache(model, processor, tmp_path / "features")
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 3 * 2 * 17 * 24 + 48)
    rows = torch.randn(8, 17, 24).half()
    keys = [bytes([row]) * 16 for row in range(8)]
    for start in range(0, 8, 2):
        cache.add(keys[start : start + 2], rows[start : start + 2])
    assert [len(load_file(path)["keys"]) for path in cache.written] == [4, 4]
    large = FeatureCache(tmp_path / "large", cache.identity)
    large.add([b"x" * 16, hash_of(make_image())], torch.randn(2, 4096, 4096).half())
    large.save()
    large.refresh()
    before = anonymous_memory()
    assert large.read(make_image())[7, 7].isfinite()
    assert anonymous_memory() - before < 10e6  # of 67 MB


def hash_of(image) -> bytes:
    return feature_cache.hash_content(feature_cache.read_content(image))


def anonymous_memory() -> int:
    """Bytes of this process that no file holds."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux says so")
    return 1024 * int(status.read_text().partition("RssAnon:")[2].split()[0])


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_worker_processes_read_by_themselves(model, processor, photos, tmp_path, context):
    cache = fill(model, processor, tmp_path / "features", photos)
    expected = [cache.read(photo) for photo in photos]
    assert len(pickle.dumps(cache)) < sum(feature.nbytes for feature in expected)
    loader = DataLoader(photos, 2, collate_fn=Reader(cache), num_workers=1, multiprocessing_context=context)
    assert torch.equal(torch.cat(list(loader)), torch.stack(expected))


class Reader:
    def __init__(self, cache: FeatureCache):
        self.cache = cache

    def __call__(self, photos: list[str]) -> torch.Tensor:
        return self.cache.stack([self.cache.read(photo) for photo in photos])["pixel_values"]


def test_runs_that_share_a_folder_find_what_the_other_adds(model, processor, photos, tmp_path):
    caches = [open_cache(model, processor, tmp_path / "features") for _ in range(2)]
    for cache, part in zip(caches, (photos[:2], photos[1:]), strict=True):
        cache.refresh()
        make_computer(model, processor).fill(cache, [rows_of(part)])
    caches[0].refresh()
    assert len(caches[0]) == len(caches[1]) == 4
    assert sorted(len(load_file(shard)["keys"]) for shard in caches[1].shards) == [2, 2]  # none twice


def test_computing_changes_neither_random_numbers_nor_the_model(model, processor, photos, tmp_path):
    model.train()
    state, weights = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    fill(model, processor, tmp_path / "features", photos, num_workers=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.model.vision_tower.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_with_its_sample(model, processor, photos, tmp_path, num_workers):
    Path(photos[2]).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^sample .*green\.png: .*is of no format that can be decoded"):
        fill(model, processor, tmp_path / "features", photos, num_workers=num_workers)
    Path(photos[2]).unlink()
    with pytest.raises(ValueError, match=r"green\.png does not exist"):
        fill(model, processor, tmp_path / "features", photos, num_workers=num_workers)


def test_a_disk_without_room_is_refused_before_the_work(model, processor, photos, tmp_path):
    cache = fill(model, processor, tmp_path / "features", photos)
    cache.require_room(1)
    with pytest.raises(
        OSError, match=r"need 784,000\.0 GB, but .*features has .* GB left: name another `feature_cache`"
    ):
        cache.require_room(10**12)


def test_what_killed_processes_left_unfinished_is_removed_and_never_read(model, processor, photos, tmp_path):
    cache = fill(model, processor, tmp_path / "features", photos[:2])
    old, new = (cache.folder / f".{pid}.features-0.safetensors" for pid in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert len(fill(model, processor, tmp_path / "features", photos)) == 4
    assert not old.exists() and new.exists()  # which another run may be writing


def damaged(folder):
    (folder / "features-0.safetensors").write_bytes(b"half")


def foreign(folder):
    save_file({"weight": torch.zeros(2)}, folder / "features-0.safetensors")


@pytest.mark.parametrize("spoil", [damaged, foreign])
def test_a_damaged_file_is_named(model, processor, photos, tmp_path, spoil):
    folder = fill(model, processor, tmp_path / "features", photos).folder
    spoil(folder)
    with pytest.raises(
        ValueError, match="features-0.safetensors is damaged, or no file of image features .*remove it"
    ):
        open_cache(model, processor, tmp_path / "features")


def test_a_file_in_place_of_the_folder_is_refused(model, processor, tmp_path):
    (tmp_path / "features").touch()
    with pytest.raises(ValueError, match="features is a file, but features are kept in a folder: name another place"):
        open_cache(model, processor, tmp_path / "features")


def test_a_place_that_cannot_be_written_is_named(model, processor, photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="features could not be written to .*file/features"):
        fill(model, processor, tmp_path / "file" / "features", photos)


def test_saved_files_have_ordinary_permissions_and_say_what_they_are_of(model, processor, photos, tmp_path):
    cache = fill(model, processor, tmp_path / "features", photos)
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in cache.folder.iterdir())
    assert '"tower": "CLIPVisionModel"' in (cache.folder / "identity.json").read_text()

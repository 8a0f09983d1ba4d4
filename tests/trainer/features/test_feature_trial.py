# SPDX-License-Identifier: Apache-2.0
"""Whether a feature cache pays: the arithmetic, and both outcomes of a trial."""

import logging

import pytest
from cached_features import make_computer, open_cache, rows_of
from tiny_parts import make_image
from tiny_training import COLOURS, losses, make_trainer, write_samples

from trainer import load_training_data
from trainer.features.trial import Costs, caching_pays, default_folder


CHEAP = {"prepare": 0.004, "compute": 0.030, "write": 0.001, "read": 0.001, "missing": 1.0, "num_workers": 0}


@pytest.mark.parametrize(
    ("passes", "changed", "pays"),
    [
        (1, {}, False),  # which computes all the same, and writes and reads beside
        (2, {}, True),
        (1, {"missing": 0.0}, True),  # of an earlier run
        (3, {"compute": 0.0005, "num_workers": 8}, False),  # a fast GPU, which the workers keep up with
        (3, {"compute": 0.0005, "prepare": 0.04, "num_workers": 8}, True),  # one that waits for them
        (100, {"read": 0.05}, False),  # a slow disk
        (100, {"read": 0.05, "num_workers": 4}, True),  # which several workers read at once
    ],
)
def test_a_cache_pays_where_reading_is_quicker_often_enough(passes, changed, pays):
    assert Costs(**{**CHEAP, **changed}).pays(passes) == pays


def test_times_are_those_of_what_waits_for_what():
    alone, beside = Costs(**CHEAP), Costs(**{**CHEAP, "num_workers": 2})
    assert alone.uncached() == pytest.approx(0.034) and beside.uncached() == 0.030
    assert alone.cached() == 0.001 and beside.cached() == 0.0005
    assert alone.filling() == pytest.approx(0.001 + 0.034 + 0.001)
    assert Costs(**{**CHEAP, "missing": 0.25}).filling() == pytest.approx(0.001 + 0.035 / 4)


@pytest.fixture
def photos(tmp_path) -> list[str]:
    for colour in COLOURS:
        make_image(colour, (640, 480)).save(tmp_path / f"{colour}.png")
    return [str(tmp_path / f"{colour}.png") for colour in COLOURS]


@pytest.mark.parametrize(("passes", "pays"), [(1000, True), (0.1, False)])
def test_a_trial_says_in_one_line_what_it_chose_and_leaves_nothing_where_it_does_not_pay(
    model, processor, photos, tmp_path, caplog, passes, pays
):
    caplog.set_level(logging.INFO, "trainer")
    cache = open_cache(model, processor, tmp_path / "features")
    assert caching_pays(make_computer(model, processor), cache, [rows_of(photos)], passes) == pays
    (line,) = caplog.messages
    assert line.startswith("`feature_cache` auto: " + ("features are kept in" if pays else "no features are kept"))
    assert f"{passes:.3g} x 4 images" in line
    kept = list((tmp_path / "features").rglob("*.safetensors"))
    assert len(kept) == (1 if pays else 0)
    if pays:
        assert len(cache) == 4


def test_a_disk_without_room_decides(model, processor, photos, tmp_path, caplog):
    caplog.set_level(logging.INFO, "trainer")
    cache = open_cache(model, processor, tmp_path / "features")
    cache.require_room = lambda images: (_ for _ in ()).throw(OSError("The disk is full."))
    assert not caching_pays(make_computer(model, processor), cache, [rows_of(photos)], 1000)
    assert "no features are kept" in caplog.text and "The disk is full." in caplog.text


def test_auto_keeps_features_in_the_users_cache(model, processor, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "langbridge" / "features"
    assert default_folder() == folder
    dataset = load_training_data(str(write_samples(tmp_path)))
    options = {"feature_cache": "auto", "num_train_epochs": 500, "max_steps": -1}
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", **options)
    assert trainer._count_passes() == 500
    trainer.data_collator.features = trainer._prepare_features()
    assert len(trainer.data_collator.features) == 4 and list(folder.rglob("features-*.safetensors"))
    few = make_trainer(model, processor, dataset, tmp_path / "few", max_steps=1, feature_cache="auto")
    assert few._count_passes() == pytest.approx(3 / 12)
    few.train()
    assert len(losses(few)) == 1

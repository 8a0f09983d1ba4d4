# SPDX-License-Identifier: Apache-2.0
"""Training from cached features: the same losses, weights and files, resumed to the bit, and what is refused."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from paths import ROOT
from tiny_parts import make_image
from tiny_training import COLOURS, losses, make_trainer, save_langbridge, write_samples
from transformers import AutoModelForImageTextToText

from modeling_langbridge import (
    LangBridgeForConditionalGeneration,
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextProcessor,
    SharedVocabulary,
)
from trainer import LangBridgeSFTConfig, PhotoPreviewCallback, load_training_data
from trainer.grounding import GroundingConfig, GroundingTrainer, compose_for_grounding


WORDS = SharedVocabulary([" a", " the", " on", " ball", " grass", " dog"])


@pytest.fixture
def base(vision, text, processor, tmp_path) -> str:
    return save_langbridge(vision, text, processor, tmp_path / "base")


@pytest.fixture
def samples(tmp_path) -> Path:
    return write_samples(tmp_path)


@pytest.fixture
def train(base, processor, samples, tmp_path):
    """Trains the saved model for six steps, with a cache in `features` unless the options say otherwise."""

    def run(name: str, resume: str | None = None, callbacks=None, **options):
        options = {"max_steps": 6, "feature_cache": str(tmp_path / "features"), **options}
        model = AutoModelForImageTextToText.from_pretrained(base)
        dataset = load_training_data(str(samples))
        trainer = make_trainer(model, processor, dataset, tmp_path / name, callbacks, **options)
        trainer.seen_by_tower = []
        tower = trainer._bare_model().model.vision_tower
        tower.register_forward_pre_hook(lambda module, inputs: trainer.seen_by_tower.append(len(inputs[0])))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def state_of(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def assert_same(one, other) -> None:
    expected, found = state_of(one), state_of(other)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert losses(one) == losses(other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train_language_model": "full", "gradient_accumulation_steps": 2},
        {"train_language_model": "lora", "lora_dropout": 0.0},
        {"dataloader_num_workers": 2},
        {"packing": True, "max_length": 128},
    ],
    ids=["adapter", "language model", "lora", "workers", "packed"],
)
def test_losses_and_gradients_are_the_towers_own(train, options):
    options = {"learning_rate": 1e-3, **options}  # steps that let a rounding stay one
    plain, cached = train("plain", feature_cache=None, **options), train("cached", **options)
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-3)
    assert sum(cached.seen_by_tower) == 5 < sum(plain.seen_by_tower)  # four images, and a blank one for the shape
    norms = [
        [float(entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry]
        for trainer in (plain, cached)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=5e-3)


def test_what_is_saved_is_the_same_and_the_model_has_its_own_tower(train, tmp_path):
    for name, features in (("plain", None), ("cached", str(tmp_path / "features"))):
        train(name, feature_cache=features, save_strategy="steps", save_steps=6).save_model()
    plain, cached = (
        sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file())
        for name in ("plain", "cached")
    )
    assert plain == cached
    models = [LangBridgeForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("plain", "cached")]
    towers = [model.model.vision_tower.state_dict() for model in models]
    assert all(torch.equal(value, towers[1][name]) for name, value in towers[0].items())
    assert models[1](torch.tensor([[100] * 3])).logits.isfinite().all()


def test_evaluation_reads_the_cache_and_previews_run_the_tower(base, processor, samples, tmp_path):
    runs = {}
    for name, features in (("plain", None), ("cached", str(tmp_path / "features"))):
        preview = PhotoPreviewCallback(processor, [make_image("orange")], 3, tmp_path / name)
        trainer = make_trainer(
            AutoModelForImageTextToText.from_pretrained(base),
            *(processor, load_training_data(str(samples)), tmp_path / name, [preview]),
            **{"max_steps": 3, "feature_cache": features},
        )
        trainer.eval_dataset = {"a": trainer.train_dataset, "b": trainer.train_dataset.select(range(3))}
        trainer.train()
        if features is not None:
            trainer.model.model.vision_tower.register_forward_hook(lambda *_: pytest.fail("the tower ran"))
        runs[name] = trainer.evaluate(), preview.latest
    assert runs["cached"][0]["eval_b_loss"] == pytest.approx(runs["plain"][0]["eval_b_loss"], rel=1e-3)
    assert runs["cached"][1] == pytest.approx(runs["plain"][1], rel=1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"train_language_model": "lora", "lora_dropout": 0.3}], ids=["adapter", "lora"]
)
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(train, tmp_path, options):
    options = {**options, "save_strategy": "steps", "save_steps": 3}
    whole = train("whole", **options)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    shutil.rmtree(tmp_path / "features")  # on another machine
    assert_same(whole, train("resumed", resume="last", **options))


def test_a_run_that_finds_all_features_equals_the_one_that_computed_them(train):
    assert_same(train("first"), train("second"))


def test_a_photo_that_changed_between_runs_is_computed_anew_and_one_that_changes_in_a_run_is_named(
    train, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "trainer")
    train("first")
    make_image("black").save(tmp_path / "red.png")
    trainer = train("second")
    assert "Features of 4 images: 3 are in" in caplog.text and "1 are computed now" in caplog.text
    make_image("white").save(tmp_path / "red.png")
    with pytest.raises(ValueError, match=r"sample-\d+: .*red\.png is not in the feature cache: it has changed since"):
        trainer.train()


def write_captions(folder: Path) -> Path:
    rows = []
    for colour in COLOURS:
        make_image(colour).save(folder / f"{colour}.png")
        rows.append({"image": f"{colour}.png", "caption": f"the {colour} ball on the grass"})
    (folder / "captions.json").write_text(json.dumps(rows))
    return folder / "captions.json"


def ground(vision, captions, output_dir, **options):
    torch.manual_seed(0)
    langbridge, processor = compose_for_grounding(
        vision, WORDS, projector_hidden_size=16, coefficient_activation="gated_softmax"
    )
    options = {"max_steps": 4, "learning_rate": 0.02, "per_device_train_batch_size": 3, "logging_steps": 1, **options}
    config = GroundingConfig(
        str(output_dir), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", **options
    )
    dataset = load_training_data(str(captions))
    trainer = GroundingTrainer(langbridge, config, processor, WORDS, dataset, dataset)
    trainer.train()
    return trainer


@pytest.mark.parametrize("patch_dropout", [0.0, 0.5])
def test_grounding_learns_the_same_from_the_cache(vision, tmp_path, patch_dropout):
    captions = write_captions(tmp_path)
    plain = ground(vision, captions, tmp_path / "plain", patch_dropout=patch_dropout)
    options = {"patch_dropout": patch_dropout, "feature_cache": str(tmp_path / "features")}
    cached = ground(vision, captions, tmp_path / "cached", **options)
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-3)
    assert cached.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-3)


def test_grounding_and_training_share_features(vision, processor, train, tmp_path):
    """A photo grounds an adapter first, and trains it with a language model then."""
    ground(vision, write_captions(tmp_path), tmp_path / "grounded", feature_cache=str(tmp_path / "features"))
    before = list((tmp_path / "features").rglob("*.safetensors"))
    train("trained")
    assert list((tmp_path / "features").rglob("*.safetensors")) == before


SLOWLY = """
import runpy, sys
from trainer.data import feature_cache
feature_cache.SHARD_BYTES = 1  # a file for every batch
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files_and_the_next_computes_the_rest(vision, tmp_path):
    number = 300
    rows = []
    for row in range(number):
        make_image(f"#{row * 1000:06x}").save(tmp_path / f"{row}.png")
        rows.append({"image": f"{row}.png", "caption": "the ball on the grass"})
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    WORDS.save(tmp_path / "words.json")
    command = [sys.executable, "-c", SLOWLY, str(ROOT / "scripts" / "ground.py"), "--vision_tower", vision]
    command += ["--dataset", str(tmp_path / "captions.json"), "--vocabulary", str(tmp_path / "words.json")]
    command += ["--output_dir", str(tmp_path / "out"), "--projector_hidden_size", "16", "--max_steps", "1"]
    command += ["--use_cpu", "--report_to", "none", "--feature_cache", str(tmp_path / "features")]
    command += ["--per_device_train_batch_size", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((tmp_path / "features").rglob("*.safetensors"))) > 5:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    found = 2 * len(list((tmp_path / "features").rglob("features-*.safetensors")))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"Features of {number} images: {found} are in" in result.stderr and 10 < found < number
    assert f"{number - found} are computed now" in result.stderr


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_trained_tower_is_refused(tmp_path, mode):
    with pytest.raises(
        ValueError, match=f"`feature_cache` needs a vision tower that stays .* is {mode}: leave one of"
    ):
        LangBridgeSFTConfig(str(tmp_path), use_cpu=True, feature_cache="features", train_vision_tower=mode)


def test_a_stream_is_refused(model, processor, samples, tmp_path):
    dataset = load_training_data(str(samples), streaming=True)
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=1, feature_cache=str(tmp_path / "f"))
    with pytest.raises(ValueError, match="`feature_cache` computes .* first: leave it or `streaming` out"):
        trainer.train()


def test_tiles_are_refused(vision, text, samples, tmp_path):
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeNextForConditionalGeneration.from_vision_text_pretrained(
        vision, text, [100, 101], processor, projector_hidden_size=8
    )
    options = {"max_steps": 1, "feature_cache": str(tmp_path / "features")}
    trainer = make_trainer(model, processor, load_training_data(str(samples)), tmp_path / "out", **options)
    with pytest.raises(ValueError, match="`feature_cache` keeps .* not of LangBridge-NeXT's tiles: leave it out"):
        trainer.train()

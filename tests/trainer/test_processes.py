# SPDX-License-Identifier: Apache-2.0
"""Two processes: DDP and FSDP2 learn what one process learns, text alone stalls nobody, checkpoints change layouts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from safetensors.torch import load_file
from tiny_training import SIZES, save_langbridge, write_samples
from transformers import AutoModelForImageTextToText
from two_processes import train_in_two_processes

from modeling_langbridge import (
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextProcessor,
    LangBridgeProcessor,
)


STEPS = 4


@pytest.fixture(scope="module")
def arguments(vision, text, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    # In batches of four, taken in turns: the second process receives text alone.
    samples = write_samples(folder, number=32, text_only=lambda index: index % 8 >= 4)
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    base = save_langbridge(vision, text, processor, folder / "base")
    options = {
        "model": base,
        "dataset": samples,
        "eval_dataset": samples,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "learning_rate": 0.02,
        "train_sampling_strategy": "sequential",
        "activation_checkpointing": "false",
        "bf16": "false",
        "use_cpu": "true",
        "report_to": "none",
        "disable_tqdm": "true",
    }
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


def run(layout: str, *trainings: tuple[list[str], Path]) -> None:
    """
    Trains with each command line into its output, in this process or in two others under the preset of that name,
    which run one training after the other. An output that holds a checkpoint is gone on with.
    """
    batch_size = ["--per_device_train_batch_size", "8" if layout == "one" else "4"]
    resumed = ["--resume_from_checkpoint", "last"]
    commands = [
        [*arguments, *batch_size, "--output_dir", str(output), *(resumed if output.exists() else [])]
        for arguments, output in trainings
    ]
    if layout == "one":
        for command in commands:
            result = run_script_here(SCRIPTS / "train.py", *command)
            assert result.returncode == 0, result.stderr[-4000:]
        return
    (trainings[0][1] / "stderr.txt").write_text(train_in_two_processes(layout, commands))


@pytest.fixture(scope="module")
def in_tiles(arguments, vision, text, tmp_path_factory) -> list[str]:
    """The same training of a LangBridge-NeXT: the second process receives text alone here, too."""
    folder = tmp_path_factory.mktemp("tiles")
    samples = write_samples(folder, number=32, text_only=lambda index: index % 8 >= 4, sizes=SIZES)
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)
    fields = {"model_class": LangBridgeNextForConditionalGeneration, "coefficient_activation": "gated_softmax"}
    base = save_langbridge(vision, text, processor, folder / "base", **fields)
    files = {"model": base, "dataset": samples, "eval_dataset": samples}
    return arguments + [str(word) for name, value in files.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def runs(arguments, in_tiles, tmp_path_factory) -> dict[str, Path]:
    """
    What each layout trained: plainly, from a feature cache, and in tiles (with DDP beside word prediction). Under
    `ddp-fsdp2` is what the second went on with from a checkpoint of the first.
    """
    folder = tmp_path_factory.mktemp("runs")
    tiles = {"ddp": [*in_tiles, "--word_prediction_weight", "1"], "fsdp2": in_tiles}

    def hand_over(writer: str, reader: str) -> tuple[list[str], Path]:
        output = folder / f"{writer}-{reader}"
        shutil.copytree(folder / writer / "checkpoint-2", output / "checkpoint-2")
        return arguments, output

    def trainings(layout: str) -> list[tuple[list[str], Path]]:
        cached = [*arguments, "--feature_cache", str(folder / f"{layout}-features")]
        return [
            (arguments, folder / layout),
            (cached, folder / f"{layout}-cached"),
            (tiles[layout], folder / f"{layout}-tiles"),
        ]

    run("one", (arguments, folder / "one"), *((tiles[layout], folder / f"one-tiles-{layout}") for layout in tiles))
    run("ddp", *trainings("ddp"))
    run("fsdp2", *trainings("fsdp2"), hand_over("one", "fsdp2"), hand_over("ddp", "fsdp2"))
    run("one", hand_over("fsdp2", "one"))
    return {output.name: output for output in folder.iterdir()}


def logged(output: Path, name: str) -> list[float]:
    history = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    return [float(entry[name]) for entry in history if name in entry]


@pytest.mark.parametrize("layout", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", ["loss", "eval_loss", "grad_norm"])
def test_two_processes_log_what_one_logs(runs, layout, name):
    expected = logged(runs["one"], name)
    assert len(expected) == (2 if name == "eval_loss" else STEPS)
    assert logged(runs[layout], name) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("layout", ["ddp", "fsdp2"])
def test_two_processes_learn_what_one_learns(runs, layout):
    expected, found = (load_file(runs[name] / "model.safetensors") for name in ("one", layout))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: name + text)


def test_each_part_is_a_shard_of_its_own_and_the_head_takes_the_reassociated_order(runs):
    sharded = (runs["fsdp2"] / "stderr.txt").read_text().rpartition("sharded:")[2].split()
    for kind in ("LangBridgeMultiModalProjector", "LangBridgeVocabularyHead", "Qwen2DecoderLayer"):
        assert f"FSDP{kind}" in sharded
    model = AutoModelForImageTextToText.from_pretrained(runs["fsdp2"]).requires_grad_(True)
    assert model.model.vocabulary_head.reassociation_pays(4 * 16, 32)


@pytest.mark.parametrize(("written_by", "read_by"), [("one", "fsdp2"), ("fsdp2", "one"), ("ddp", "fsdp2")])
def test_a_checkpoint_of_one_layout_is_resumed_in_another(runs, written_by, read_by):
    resumed = runs[f"{written_by}-{read_by}"]
    assert logged(resumed, "loss") == pytest.approx(logged(runs["one"], "loss"), abs=1e-4)


@pytest.mark.parametrize("layout", ["ddp", "fsdp2"])
def test_two_processes_compute_each_images_features_once_and_learn_from_them(runs, layout):
    shards = list(runs[f"{layout}-features"].rglob("*.safetensors"))
    keys = [key for shard in shards for key in load_file(shard)["keys"].tolist()]
    assert len(keys) == len(set(map(bytes, keys))) == 4
    assert len(shards) == 2  # of each process its own
    for name in ("loss", "eval_loss", "grad_norm"):
        assert logged(runs[f"{layout}-cached"], name) == pytest.approx(logged(runs["one"], name), rel=1e-3)


@pytest.mark.parametrize("layout", ["ddp", "fsdp2"])
def test_tiles_are_learnt_alike_in_two_processes(runs, layout):
    one, two = runs[f"one-tiles-{layout}"], runs[f"{layout}-tiles"]
    words = ["word_prediction", "word_entropy"] if layout == "ddp" else []
    for name in ("loss", "eval_loss", "grad_norm", *words):
        assert logged(two, name) == pytest.approx(logged(one, name), rel=1e-3)
    expected, found = (load_file(output / "model.safetensors") for output in (one, two))
    for name in ("model.image_newline", "model.vocabulary_head.weight", "model.multi_modal_projector.linear_1.weight"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_lora_is_resumed_when_sharded(arguments, tmp_path):
    arguments = [*arguments, "--train_language_model", "lora", "--lora_dropout", "0"]
    run("one", (arguments, tmp_path / "one"))
    shutil.copytree(tmp_path / "one" / "checkpoint-2", tmp_path / "sharded" / "checkpoint-2")
    run("fsdp2", (arguments, tmp_path / "sharded"))
    assert logged(tmp_path / "sharded", "loss") == pytest.approx(logged(tmp_path / "one", "loss"), abs=1e-4)
    expected, found = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "sharded"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_words_beside_captions_are_learnt_alike_in_two_processes(arguments, vision, text, tmp_path):
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    base = save_langbridge(vision, text, processor, tmp_path / "base", coefficient_activation="gated_softmax")
    arguments = [*arguments, "--model", base, "--word_prediction_weight", "1"]
    for layout in ("one", "ddp"):
        run(layout, (arguments, tmp_path / layout))
    for name in ("loss", "word_prediction", "word_entropy", "grad_norm"):
        assert logged(tmp_path / "ddp", name) == pytest.approx(logged(tmp_path / "one", name), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp", "fsdp2"])
def test_bins_are_learnt_alike_in_two_processes(arguments, tmp_path, layout):
    arguments = [*arguments, "--packing", "true", "--max_length", "200"]  # in eight bins, a step of both
    for name in ("one", layout):
        run(name, (arguments, tmp_path / name))
    for name in ("loss", "eval_loss", "grad_norm", "num_tokens"):
        assert logged(tmp_path / layout, name) == pytest.approx(logged(tmp_path / "one", name), rel=1e-4)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("one", layout))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: name + text)

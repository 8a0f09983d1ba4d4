# SPDX-License-Identifier: Apache-2.0
"""Losing nothing: exact resume, kill -9 in the middle of a save, a disk that is full."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from in_process import run_script_here
from paths import ROOT
from tiny_training import losses, make_trainer, save_langbridge, write_samples
from transformers import AutoModelForImageTextToText, TrainerCallback

from modeling_langbridge import LangBridgeForConditionalGeneration
from trainer import load_training_data
from trainer.checkpointing.checkpoints import find_last_checkpoint


SAVING = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "cosine"}


@pytest.fixture
def samples(tmp_path) -> Path:
    return write_samples(tmp_path)


@pytest.fixture
def base(vision, text, processor, tmp_path) -> str:
    return save_langbridge(vision, text, processor, tmp_path / "base")


def state_of(trainer) -> dict[str, torch.Tensor]:
    state = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    for number, values in trainer.optimizer.state_dict()["state"].items():
        state.update({f"optimizer.{number}.{name}": value for name, value in values.items()})
    return state


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train_language_model": "full", "train_vision_tower": "full", "gradient_accumulation_steps": 2},
        {"train_language_model": "lora", "lora_dropout": 0.3},
        pytest.param(
            {"train_language_model": "lora", "train_projector": "frozen", "train_vocabulary_head": "frozen"},
            marks=pytest.mark.slow,
        ),
        {"streaming": True},
        {"dataloader_num_workers": 2},
        pytest.param({"train_sampling_strategy": "group_by_length", "max_length": 512}, marks=pytest.mark.slow),
    ],
    ids=["adapter", "full", "lora", "lora_alone", "streaming", "workers", "by_length"],
)
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(base, processor, samples, tmp_path, options):
    options = dict(options)
    dataset = load_training_data(str(samples), streaming=options.get("streaming", False))
    if options.pop("streaming", False):
        dataset = dataset.shuffle(seed=1, buffer_size=5)

    def trainer_in(folder):
        model = AutoModelForImageTextToText.from_pretrained(base)
        return make_trainer(model, processor, dataset, folder, **SAVING, **options)

    whole = trainer_in(tmp_path / "whole")
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    resumed = trainer_in(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint="last")

    expected, found = state_of(whole), state_of(resumed)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert losses(resumed) == losses(whole)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for step, state in ((3, "{}"), (20, '{"global_step"'), (10, "{}"), (30, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert find_last_checkpoint(tmp_path).name == "checkpoint-10"
    assert find_last_checkpoint(tmp_path / "checkpoint-30") is None


def test_resuming_from_nothing_or_from_half_a_checkpoint_says_so(model, processor, samples, tmp_path):
    trainer = make_trainer(model, processor, load_training_data(str(samples)), tmp_path / "out", **SAVING)
    with pytest.raises(ValueError, match="no complete checkpoint in .*out to go on from"):
        trainer.train(resume_from_checkpoint=True)
    (tmp_path / "out" / "checkpoint-9").mkdir(parents=True)
    with pytest.raises(ValueError, match="checkpoint-9 is no complete checkpoint: give another, or `last`"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-9"))


def test_a_run_killed_in_the_middle_of_a_save_goes_on_from_the_checkpoint_before(base, samples, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--model", base, "--dataset", str(samples)]
    command += ["--output_dir", str(output), "--use_cpu", "--bf16", "false", "--report_to", "none"]
    command += ["--save_strategy", "steps", "--save_steps", "1", "--per_device_train_batch_size", "3"]
    command += ["--activation_checkpointing", "false"]

    def kill_while_it_saves() -> bool:
        """Kills the run when a checkpoint beyond the second has begun; says whether it was caught half written."""
        resume = ["--resume_from_checkpoint", "last"] if find_last_checkpoint(output) else []
        seen = {path.name for path in output.glob("checkpoint-*")} if resume else set()
        process = subprocess.Popen([*command, *resume, "--max_steps", "400"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            new = [path for path in output.glob("checkpoint-*") if path.name not in seen]
            begun = [path for path in new if not (path / "trainer_state.json").exists()]
            if len(new) > 2 and begun:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return not (begun[0] / "trainer_state.json").exists()
            time.sleep(0.001)  # much less than a save takes, and the run has the processor
        process.kill()
        process.wait()
        return False

    # The moment is the operating system's: where the save was quicker than the signal, once more.
    assert any(kill_while_it_saves() for _ in range(5))
    last = find_last_checkpoint(output)
    assert torch.isfinite(AutoModelForImageTextToText.from_pretrained(last).lm_head.weight).all()
    steps = str(int(last.name.removeprefix("checkpoint-")) + 2)
    result = run_script_here(*command[1:], "--resume_from_checkpoint", "last", "--max_steps", steps)
    assert result.returncode == 0, result.stderr[-2000:]
    assert find_last_checkpoint(output).name == f"checkpoint-{steps}"


class FullDisk(TrainerCallback):
    """Lets no file grow beyond 20 kB once the first checkpoint is there: what a full disk is like, without one."""

    def on_save(self, args, state, control, **kwargs):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))


def test_a_full_disk_is_a_clear_error_and_leaves_what_was_whole(base, processor, samples, tmp_path):
    dataset, output = load_training_data(str(samples)), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        trainer = make_trainer(
            AutoModelForImageTextToText.from_pretrained(base), processor, dataset, output, [FullDisk()], **SAVING
        )
        with pytest.raises(
            OSError, match="checkpoint-6 could not be written .*the last complete one is .*checkpoint-3"
        ):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (output / "checkpoint-6").exists()
    model = AutoModelForImageTextToText.from_pretrained(base)
    resumed = make_trainer(model, processor, dataset, output, **SAVING)
    resumed.train(resume_from_checkpoint="last")
    assert resumed.state.global_step == 6


def test_each_checkpoint_is_a_folder_that_loads(base, processor, samples, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(base)
    make_trainer(model, processor, load_training_data(str(samples)), tmp_path / "out", **SAVING).train()
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "checkpoint-6")
    assert isinstance(loaded, LangBridgeForConditionalGeneration)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name

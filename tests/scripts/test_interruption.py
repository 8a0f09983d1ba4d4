# SPDX-License-Identifier: Apache-2.0
"""A training run that is stopped says what it leaves, and the same command starts it again or goes on."""

import os
import signal
from pathlib import Path

import pytest
from in_process import run_script_here
from paths import SCRIPTS
from tiny_parts import save_vision_tower
from tiny_training import write_samples

from modeling_langbridge import SharedVocabulary
from trainer.run_plan import RunPlan


@pytest.fixture
def command(vision, tmp_path) -> list[str]:
    """Options that both scripts have."""
    SharedVocabulary([" dog", " ball", " a"]).save(tmp_path / "words.json")
    options = {
        "vision_tower": vision,
        "vocabulary": tmp_path / "words.json",
        "projector_hidden_size": 16,
        "dataset": write_samples(tmp_path, text_only=lambda index: False),
        "output_dir": tmp_path / "out",
        "max_steps": 4,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "bf16": False,
    }
    return [f"--{name}={value}" for name, value in options.items()]


@pytest.fixture
def stop_after(monkeypatch):
    """Lets SIGTERM come after some steps."""

    def stop_after(steps: int) -> None:
        def stop(self, args, state, control, **kwargs):
            if state.global_step == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(RunPlan, "on_step_begin", stop, raising=False)

    return stop_after


@pytest.mark.parametrize("script", ["train.py", "ground.py"])
def test_a_run_with_a_checkpoint_goes_on_from_it(command, text, tmp_path, stop_after, script):
    command += ["--language_model", text] if script == "train.py" else []
    command += ["--save_steps", "2"]
    stop_after(3)
    stopped = run_script_here(SCRIPTS / script, *command)
    assert stopped.returncode == 143
    assert stopped.stderr.endswith(
        "\nInterrupted: checkpoint-2 is kept; go on with the same command and --resume_from_checkpoint last.\n"
    )
    stop_after(-1)
    again = run_script_here(SCRIPTS / script, *command)
    assert again.returncode == 1 and "out is not empty" in again.stderr
    gone_on = run_script_here(SCRIPTS / script, *command, "--resume_from_checkpoint", "last")
    assert gone_on.returncode == 0, gone_on.stderr[-2000:]
    assert "4 steps of 2, of which 2 are made" in gone_on.stderr
    assert (tmp_path / "out" / "adapter" / "adapter.safetensors").is_file()


def test_a_run_without_a_checkpoint_starts_again_with_what_it_composed(command, text, tmp_path, stop_after):
    preview = [f"--preview_photos={tmp_path / 'red.png'}", "--preview_steps=1"]
    command += ["--language_model", text, "--train_language_model", "lora", "--lora_r", "2", *preview]
    stop_after(2)
    stopped = run_script_here(SCRIPTS / "train.py", *command)
    assert stopped.returncode == 143
    assert stopped.stderr.endswith("\nInterrupted: nothing was kept, the same command starts again.\n")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"base", "preview", "runs"}
    weights = out / "base" / "model.safetensors"
    written = weights.stat().st_mtime_ns

    stop_after(-1)
    other = run_script_here(SCRIPTS / "train.py", *command, "--projector_hidden_size=8")
    assert other.returncode == 1
    assert "base was composed with --projector_hidden_size 16, not 8: name another --output_dir" in other.stderr
    again = run_script_here(SCRIPTS / "train.py", *command)
    assert again.returncode == 0, again.stderr[-2000:]
    assert weights.stat().st_mtime_ns == written
    assert (out / "adapter_config.json").is_file()
    assert sorted(path.name for path in out.glob("preview*")) == ["preview", "previews_of_stopped_run_1"]


def test_a_run_says_what_it_will_do_and_nothing_that_is_usual(command, text, tmp_path):
    tower = save_vision_tower("whole_clip", tmp_path / "whole")
    command = [f"--vision_tower={tower}", *(option for option in command[1:] if not option.startswith("--bf16"))]
    result = run_script_here(SCRIPTS / "train.py", *command, "--language_model", text, "--max_steps=7")
    assert result.returncode == 0, result.stderr[-2000:]
    said = result.stderr
    assert said.startswith("Computes on ")
    for line in ("What is trained", "Memory: ", "Trains on 12 samples: 7 steps of 2.", "A step takes "):
        assert line in said, line
    for usual in ("LOAD REPORT", "PAD/BOS/EOS", "FutureWarning", "lm_head", "kernels"):
        assert usual not in said, usual


@pytest.mark.parametrize("script", ["train.py", "ground.py"])
def test_a_checkpoint_that_is_not_complete_is_named(command, text, tmp_path, script):
    command += ["--language_model", text] if script == "train.py" else []
    sentences = {"last": "There is no complete checkpoint in ", "absent": "absent is no complete checkpoint"}
    for asked, sentence in sentences.items():
        result = run_script_here(SCRIPTS / script, *command, "--resume_from_checkpoint", asked)
        assert result.returncode == 1 and sentence in result.stderr
    assert not list(Path(tmp_path / "out").glob("checkpoint-*"))

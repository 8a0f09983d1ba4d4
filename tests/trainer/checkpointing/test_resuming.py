# SPDX-License-Identifier: Apache-2.0
"""Going on from a checkpoint with other options than its run had, at its end, and saving where there is no room."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from in_process import run_script_here
from paths import SCRIPTS
from refusals import contents_of
from tiny_training import make_trainer, save_langbridge, write_samples
from transformers import AutoModelForImageTextToText, TrainerCallback

from hub_cards.training_record import read_training_records
from modeling_langbridge import SharedVocabulary
from trainer import load_training_data
from trainer.checkpointing.output_folder import require_room


SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module")
def made(vision, text, composed, tmp_path_factory) -> Path:
    """A folder with a model, samples, and the output of a run of the script."""
    folder = tmp_path_factory.mktemp("made")
    save_langbridge(vision, text, composed[1], folder / "base")
    result = train(folder, write_samples(folder))
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def train(folder, samples, *more, output="out", steps=4):
    options = {"model": folder / "base", "dataset": samples, "output_dir": folder / output, "max_steps": steps}
    options |= {"save_strategy": "steps", "save_steps": 2, "learning_rate": 0.02, "per_device_train_batch_size": 3}
    options |= {"use_cpu": True, "bf16": False, "report_to": "none", "activation_checkpointing": False}
    command = [part for name, value in options.items() for part in (f"--{name}", value)]
    return run_script_here(SCRIPTS / "train.py", *command, "--disable_tqdm", "true", *more)


def trainer_of(folder, processor, callbacks=None, samples="samples.json", **options):
    model = AutoModelForImageTextToText.from_pretrained(folder / "base")
    data = load_training_data(str(folder / samples))
    return make_trainer(model, processor, data, folder / "out", callbacks, **{**SAVING, **options})


@pytest.mark.parametrize("resume", ["last", "checkpoint-4"])
def test_a_finished_run_says_so_and_changes_nothing(run, resume):
    before = contents_of(run)
    checkpoint = resume if resume == "last" else run / "out" / resume
    result = train(run, run / "samples.json", "--resume_from_checkpoint", checkpoint)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"The run in {run / 'out'} is finished, at step 4: nothing is changed."
    assert contents_of(run) == before


def test_a_finished_run_goes_on_to_more_steps(run):
    result = train(run, run / "samples.json", "--resume_from_checkpoint", "last", steps=6)
    assert result.returncode == 0, result.stderr
    assert "max_steps: 4 in the checkpoint, 6 now; the new one holds" in result.stderr
    assert read_training_records(run / "out" / "training_record.json")[-1].steps == 6


def test_a_run_that_lacks_only_its_last_save_is_not_finished(run):
    for path in (run / "out").iterdir():
        if not path.name.startswith("checkpoint-"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = train(run, run / "samples.json", "--resume_from_checkpoint", "last")
    assert result.returncode == 0, result.stderr
    assert (run / "out" / "model.safetensors").exists() and (run / "out" / "adapter").is_dir()


def test_a_grounding_run_that_is_finished_says_so_and_changes_nothing(vision, text, made, tmp_path):
    SharedVocabulary([" a", " ball", " dog", " grass"]).save(tmp_path / "words.json")
    rows = [{"image": str(made / f"{colour}.png"), "caption": "a ball"} for colour in ("red", "blue")]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["--vision_tower", vision, "--dataset", tmp_path / "captions.jsonl", "--max_steps", 2, "--use_cpu"]
    command += ["--vocabulary", tmp_path / "words.json", "--output_dir", tmp_path / "out", "--report_to", "none"]
    command += ["--projector_hidden_size", 40, "--save_strategy", "no", "--image_folder", made]
    first = run_script_here(SCRIPTS / "ground.py", *command)
    assert first.returncode == 0, first.stderr
    assert "Nothing is kept before the end of the training, as `save_strategy` is no." in first.stderr
    before = contents_of(tmp_path)
    again = run_script_here(SCRIPTS / "ground.py", *command, "--resume_from_checkpoint", "last")
    assert again.stdout.strip().endswith("is finished, at step 2: nothing is changed."), again.stderr
    assert contents_of(tmp_path) == before


def test_other_settings_are_named_with_what_holds(run, processor, caplog):
    rows = json.loads((run / "samples.json").read_text())
    (run / "others.json").write_text(json.dumps(rows[::-1]))
    other = {"learning_rate": 0.01, "seed": 5, "per_device_train_batch_size": 2, "samples": "others.json"}
    trainer = trainer_of(run, processor, **other)
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=str(run / "out" / "checkpoint-2"))
    (said,) = [record.getMessage() for record in caplog.records if "other settings" in record.getMessage()]
    assert f"{run / 'out' / 'checkpoint-2'} is of a run with other settings" in said
    for difference in (
        "learning rate of projector: 0.02 in the checkpoint, 0.01 now; the checkpoint's holds",
        "seed: 42 in the checkpoint, 5 now; the new one holds",
        "samples a step: 3 in the checkpoint, 2 now; the new one holds",
    ):
        assert difference in said
    assert "fingerprint of the dataset" in said and "language_model" not in said
    trainer.save_model()
    part = read_training_records(run / "out" / "training_record.json")[-1].parts["projector"]
    assert part.learning_rate == 0.02  # as was said
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {0.02}


def test_the_same_settings_say_nothing(run, processor, caplog):
    shutil.rmtree(run / "out")
    trainer_of(run, processor, learning_rate=0.02).train()
    with caplog.at_level(logging.WARNING):
        trainer_of(run, processor, learning_rate=0.02).train(resume_from_checkpoint=str(run / "out" / "checkpoint-2"))
    assert "other settings" not in caplog.text


def test_checkpoints_of_earlier_versions_which_keep_no_settings_are_gone_on_from(run, processor, caplog):
    file = run / "out" / "checkpoint-2" / "trainer_state.json"
    state = json.loads(file.read_text())
    assert state["stateful_callbacks"].pop("RunSettings")
    file.write_text(json.dumps(state))
    trainer = trainer_of(run, processor, learning_rate=0.01)
    trainer.train(resume_from_checkpoint=str(run / "out" / "checkpoint-2"))
    assert trainer.state.global_step == 4


def test_other_parts_are_refused_by_name(run, processor):
    trainer = trainer_of(run, processor, train_projector="frozen")
    with pytest.raises(ValueError, match=r"was trained with projector full \(now frozen\), .* train the same parts"):
        trainer.train(resume_from_checkpoint="last")


class FullAtTheEnd(TrainerCallback):
    """Puts a folder where the last save writes a file: an error in its middle, whoever runs the tests."""

    def on_train_end(self, args, state, control, **kwargs):
        (Path(args.output_dir) / "model.safetensors").mkdir(parents=True)


@pytest.mark.parametrize(
    ("strategy", "left"),
    [("steps", "go on from .*checkpoint-4 with --resume_from_checkpoint last"), ("no", "train again, as none")],
)
def test_a_last_save_that_fails_names_the_folder_and_what_is_left(run, processor, strategy, left):
    shutil.rmtree(run / "out")
    trainer = trainer_of(run, processor, [FullAtTheEnd()], save_strategy=strategy)
    trainer.train()
    with pytest.raises(OSError, match=f"could not be written to {run / 'out'} .*: make room, then {left}"):
        trainer.save_model()
    assert not list((run / "out").glob(".unfinished*"))


def test_saved_files_have_ordinary_permissions_and_leave_no_unfinished_ones(run):
    files = [path for path in (run / "out").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files if path.suffix == ".safetensors"} == {0o644}
    assert not [path.name for path in (run / "out").iterdir() if path.name.startswith(".")]


def test_a_folder_that_another_run_writes_to_is_refused(run):
    before = contents_of(run)
    lock = FileLock(run / "out" / ".lock")
    with lock:
        result = train(run, run / "samples.json", "--resume_from_checkpoint", "last")
    assert f"Another run is writing to {run / 'out'}: wait until it ends" in result.stderr and result.returncode == 1
    assert contents_of(run).keys() - before.keys() == {"out/.lock"}


def test_an_output_folder_that_is_a_link_is_written_through_it(run):
    (run / "disk").mkdir()
    (run / "link").symlink_to("disk")
    result = train(run, run / "samples.json", output="link", steps=1)
    assert result.returncode == 0, result.stderr
    assert (run / "link").is_symlink() and (run / "disk" / "model.safetensors").exists()


def test_room_for_a_save_is_looked_for_before_the_first_step(run, processor, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="There is room for .* GB in .*, and a save takes about 1000000000.0 GB"):
        require_room(tmp_path / "not" / "there", 10**18)
    steps, trainer = [], trainer_of(run, processor)
    monkeypatch.setattr(trainer, "training_step", lambda *_: steps.append(1))
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=1000))
    with pytest.raises(OSError, match="There is room for 0.0 GB in .*out"):
        trainer.train()
    assert not steps

# SPDX-License-Identifier: Apache-2.0
"""What all scripts share: their help, how they end, and what the trainer package costs to import."""

import argparse
import importlib
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import trl
import yaml
from huggingface_hub.errors import StrictDataclassClassValidationError
from in_process import run_script_here
from paths import SCRIPTS
from safetensors import SafetensorError
from tiny_training import load_script

import trainer
from modeling_langbridge import LangBridgeConfig
from trainer.checkpointing.interruption import saying_what_is_kept
from trainer.command_line import check_output_file, run_script
from trainer.model_loading import ModelArguments, load_model


# These build their parser of transformers' and TRL's dataclasses.
RECIPE_SCRIPTS = ["ground.py", "plan.py", "train.py"]
HELP = """
import contextlib, io, json, runpy, sys
import trainer, trainer.command_line
from trainer.model_loading import ModelArguments, load_model

found = {}
for script in sys.argv[1:]:
    sys.argv, sys.path[0] = [script, "--help"], script.rpartition("/")[0]  # as Python itself does
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = end.code
    heavy = sorted({"torch", "transformers", "trl", "datasets"} & set(sys.modules))
    found[script.rpartition("/")[2]] = [status, output.getvalue(), errors.getvalue(), heavy]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def shown_help() -> dict[str, list]:
    """Each script's exit status, output, errors and imports of heavy packages so far, from one fresh process."""
    scripts = sorted(SCRIPTS.glob("*.py"), key=lambda path: path.name in RECIPE_SCRIPTS)
    command = [sys.executable, "-c", HELP, *map(str, scripts)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return json.loads(result.stdout)


def test_help_shows_the_usage_and_nothing_else(shown_help):
    assert shown_help.keys() == {path.name for path in SCRIPTS.glob("*.py")}
    for name, (status, output, errors, _) in shown_help.items():
        assert (status, errors) == (0, ""), f"{name}: {errors}"
        assert output.startswith(f"usage: {name} ")


def test_the_help_of_training_shows_its_own_options_and_the_most_used_of_others_unless_asked_for_all(shown_help):
    shown = shown_help["train.py"][1]
    for option in (
        "--vision_tower",
        "--dataset",
        "--lora_r",
        "--word_prediction_weight",
        "--learning_rate",
        "--help_all",
    ):
        assert option in shown
    assert re.search(r"^model:\n(.|\n)*^data:\n(.|\n)*^training:\n", shown, re.MULTILINE)
    assert "--adam_beta1" not in shown
    everything = run_script_here(SCRIPTS / "train.py", "--help_all").stdout
    assert "--adam_beta1" in everything and "--vision_tower" in everything


def test_help_is_shown_before_anything_large_is_imported(shown_help):
    imported = {name: heavy for name, (*_, heavy) in shown_help.items() if name not in RECIPE_SCRIPTS}
    assert not any(imported.values()), imported


def test_the_trainer_package_offers_all_that_it_names():
    assert set(trainer.__all__) <= set(dir(trainer))
    assert all(getattr(trainer, name).__name__ == name for name in trainer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'LangBridgeSFTTrainr'"):
        trainer.LangBridgeSFTTrainr  # noqa: B018


def end_of(main, monkeypatch, capsys, **options) -> tuple[int | str | None, str]:
    monkeypatch.setattr(sys, "argv", ["/somewhere/my_script.py"])
    with pytest.raises(SystemExit) as end:
        run_script(main, **options)
    return end.value.code, capsys.readouterr().err


def raiser(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("It is wrong."),
        ValueError("It is wrong."),
        FloatingPointError("It is wrong."),
        SafetensorError("It is wrong."),
        pickle.UnpicklingError("It is wrong."),
        ImportError("It is wrong."),
        OSError("It is wrong.\n\nSee https://huggingface.co/docs for more."),
        ValueError("\n  It is wrong.\n"),
    ],
)
def test_an_error_that_the_user_can_mend_ends_a_script_with_one_sentence(error, monkeypatch, capsys):
    assert end_of(raiser(error), monkeypatch, capsys) == ("my_script.py: It is wrong.", "")
    assert end_of(raiser(error), monkeypatch, capsys, error_status=2) == (2, "my_script.py: It is wrong.\n")


def fail_to_load_weights() -> None:
    torch.nn.Linear(2, 3).load_state_dict(torch.nn.Linear(2, 4).state_dict())


def fail_to_read_json() -> None:
    json.loads("[" * 100_000)


def fail_to_read_yaml() -> None:
    yaml.safe_load("[" * 2_000)


def fail_to_import() -> None:
    importlib.import_module("bitsandbytes_of_tomorrow.optim")


@pytest.mark.parametrize(
    ("main", "sentence"),
    [
        (
            fail_to_load_weights,
            r"^Error\(s\) in loading state_dict for Linear: size mismatch .*: the weights are another",
        ),
        (
            raiser(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")),
            "out of memory.*smaller batch",
        ),
        (raiser(RuntimeError("[enforce fail] No space left on device")), "No space left on device: make room"),
        (
            raiser(RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error.")),
            "--dataloader_num_workers",
        ),
        (raiser(MemoryError()), r"the memory does not suffice \(MemoryError\)"),
        (fail_to_import, "this needs the package bitsandbytes_of_tomorrow: `pip install bitsandbytes_of_tomorrow`"),
        (fail_to_read_json, "a file is nested too deeply to be read"),
        (fail_to_read_yaml, "a file is nested too deeply to be read"),
    ],
)
def test_an_error_of_a_library_that_the_user_can_mend_says_what_to_do(main, sentence, monkeypatch, capsys):
    said, _ = end_of(main, monkeypatch, capsys)
    assert re.search(sentence, said.removeprefix("my_script.py: ")) and "\n" not in said


def test_a_configuration_that_cannot_be_says_its_own_sentence(monkeypatch, capsys):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        LangBridgeConfig(words_per_image=5)
    sentence, _ = end_of(raiser(error.value), monkeypatch, capsys)
    assert sentence == f"my_script.py: {error.value.__cause__}" and "\n" not in sentence


def recurse() -> None:
    recurse()


def import_what_was_renamed() -> None:
    from trainer.command_line import run_scripts  # noqa: F401


@pytest.mark.parametrize(
    "main",
    [
        *map(raiser, [TypeError("bug"), KeyError("bug"), AttributeError("bug"), AssertionError("bug")]),
        raiser(RuntimeError("bug: mat1 and mat2 shapes cannot be multiplied")),
        raiser(NotImplementedError("bug")),
        raiser(ModuleNotFoundError("bug", name="trainer.parst")),
        recurse,
        import_what_was_renamed,
    ],
)
def test_a_bug_keeps_its_traceback(main):
    with pytest.raises(Exception, match="bug|recursion|run_scripts"):
        run_script(main)


def be_terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


@pytest.mark.parametrize(("main", "status"), [(raiser(KeyboardInterrupt()), 130), (be_terminated, 143)])
def test_an_interruption_ends_a_script_quietly_or_with_what_it_has_to_say(main, status, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert end_of(main, monkeypatch, capsys) == (status, "")
    assert end_of(main, monkeypatch, capsys, interrupted="It goes on.") == (status, "\nIt goes on.\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_forked_worker_of_a_script_ends_plainly(monkeypatch):
    def main() -> int:
        worker = os.fork()
        if worker == 0:
            try:
                be_terminated()
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])

    with pytest.raises(SystemExit) as end:
        run_script(main)
    assert end.value.code == 143


@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupted_training_says_what_is_kept_and_how_to_go_on(tmp_path, monkeypatch, capsys, kept):
    (tmp_path / "checkpoint-20").mkdir()
    if kept:
        (tmp_path / "checkpoint-20" / "trainer_state.json").write_text("{}")

    def main() -> None:
        with saying_what_is_kept(tmp_path, speaks=True):
            be_terminated()

    words = "checkpoint-20 is kept; go on with the same command and --resume_from_checkpoint last."
    words = words if kept else "nothing was kept, the same command starts again."
    assert end_of(main, monkeypatch, capsys) == (143, f"\nInterrupted: {words}\n")

    def other_process() -> None:
        with saying_what_is_kept(tmp_path, speaks=False):
            raise KeyboardInterrupt

    assert end_of(other_process, monkeypatch, capsys) == (130, "")


def test_what_is_usual_is_not_said():
    run_script(lambda: None)
    said = []
    logger = logging.getLogger("transformers.modeling_utils")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    report = "CLIPVisionModel LOAD REPORT from: clip\nKey | Status |\nlogit_scale | UNEXPECTED |"
    for message in (report, f"{report}\nhead.weight | MISSING |", f"{report}\nhead.bias | MISMATCH |", "other"):
        logger.warning(message)
    logger.removeHandler(handler)
    assert len(said) == 3 and report not in said


def test_bars_of_progress_are_drawn_on_a_terminal_alone():
    code = "from trainer.command_line import run_script\n"
    code += "def main():\n    from tqdm import tqdm\n    list(tqdm(range(3)))\nrun_script(main)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_what_main_returns_is_the_exit_status(monkeypatch, capsys):
    assert end_of(lambda: 1, monkeypatch, capsys) == (1, "")
    for success in (None, 0):
        run_script(lambda: success)  # noqa: B023


def test_an_output_file_must_be_new_and_in_a_folder(tmp_path):
    for path in (None, tmp_path / "new.json"):
        check_output_file(path)
    with pytest.raises(ValueError, match="exists: remove it"):
        check_output_file(Path(__file__))
    with pytest.raises(ValueError, match="there is no folder"):
        check_output_file(tmp_path / "absent" / "new.json")


def options_of(dataclass_type: type) -> dict[str, argparse.Action]:
    return {action.dest: action for action in trl.TrlParser((dataclass_type,))._actions}


def test_training_options_that_trl_has_too_mean_the_same():
    ours, theirs = options_of(ModelArguments), options_of(trl.ModelConfig)
    common = (ours.keys() & theirs.keys()) - {"help", "config"}
    assert common >= {"dtype", "attn_implementation", "load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant"}
    for name in common:
        assert sorted(ours[name].choices or []) == sorted(theirs[name].choices or []), name
        assert ours[name].default == theirs[name].default or name == "dtype"


@pytest.mark.parametrize(
    ("options", "needs_folder"),
    [({"model": "mine"}, True), ({"vision_tower": "tower", "language_model": "text"}, False)],
)
def test_a_revision_is_refused_where_it_would_be_forgotten(options, needs_folder):
    arguments = ModelArguments(**options, model_revision="v1")
    with pytest.raises(ValueError, match="--model_revision is of a --model that is trained without LoRA"):
        load_model(arguments, base=None, needs_folder=needs_folder)


def test_remote_code_is_refused_in_training(tmp_path):
    options = ["--output_dir", str(tmp_path / "out"), "--dataset", "unread.json", "--use_cpu", "--bf16", "false"]
    with pytest.raises(ValueError, match="--trust_remote_code has no effect"):
        load_script("train").main([*options, "--trust_remote_code", "true"])


def test_four_bits_are_of_the_asked_for_kind(model, processor, tmp_path):
    pytest.importorskip("bitsandbytes")
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    options = {"bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True, "dtype": "float16"}
    arguments = ModelArguments(model=str(tmp_path), load_in_4bit=True, **options)
    found = load_model(arguments, base=None, needs_folder=True)[0].config.quantization_config
    assert (found.bnb_4bit_quant_type, found.bnb_4bit_use_double_quant) == ("fp4", True)
    assert found.bnb_4bit_compute_dtype == torch.float16

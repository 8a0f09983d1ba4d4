# SPDX-License-Identifier: Apache-2.0
"""What all scripts share: their help, how they end, and what the trainer package costs to import."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trl
from huggingface_hub.errors import StrictDataclassClassValidationError
from paths import SCRIPTS
from safetensors import SafetensorError
from tiny_training import load_script

import trainer
from modeling_langbridge import LangBridgeConfig
from trainer.command_line import check_output_file, run_script


# These build their parser of transformers' and TRL's dataclasses.
RECIPE_SCRIPTS = ["ground.py", "train.py"]
HELP = """
import contextlib, io, json, runpy, sys
import trainer, trainer.command_line

found = {}
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
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
    ],
)
def test_an_error_that_the_user_can_mend_ends_a_script_with_one_sentence(error, monkeypatch, capsys):
    assert end_of(raiser(error), monkeypatch, capsys) == ("my_script.py: It is wrong.", "")
    assert end_of(raiser(error), monkeypatch, capsys, error_status=2) == (2, "my_script.py: It is wrong.\n")


def test_a_configuration_that_cannot_be_says_its_own_sentence(monkeypatch, capsys):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        LangBridgeConfig(words_per_image=5)
    sentence, _ = end_of(raiser(error.value), monkeypatch, capsys)
    assert sentence == f"my_script.py: {error.value.__cause__}" and "\n" not in sentence


@pytest.mark.parametrize("error", [TypeError("bug"), KeyError("bug"), AttributeError("bug"), RuntimeError("bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match="bug"):
        run_script(raiser(error))


def test_ctrl_c_ends_a_script_quietly_or_with_what_it_has_to_say(monkeypatch, capsys):
    assert end_of(raiser(KeyboardInterrupt()), monkeypatch, capsys) == (130, "")
    options = {"interrupted": "It goes on."}
    assert end_of(raiser(KeyboardInterrupt()), monkeypatch, capsys, **options) == (130, "\nIt goes on.\n")


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
    ours, theirs = options_of(load_script("train").ModelArguments), options_of(trl.ModelConfig)
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
    train = load_script("train")
    arguments = train.ModelArguments(**options, model_revision="v1")
    with pytest.raises(ValueError, match="--model_revision is of a --model that is trained without LoRA"):
        train.load_model(arguments, base=None, needs_folder=needs_folder)


def test_remote_code_is_refused_in_training(tmp_path):
    options = ["--output_dir", str(tmp_path / "out"), "--dataset", "unread.json", "--use_cpu", "--bf16", "false"]
    with pytest.raises(ValueError, match="--trust_remote_code has no effect"):
        load_script("train").main([*options, "--trust_remote_code", "true"])


def test_four_bits_are_of_the_asked_for_kind(model, processor, tmp_path):
    pytest.importorskip("bitsandbytes")
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    train = load_script("train")
    options = {"bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True, "dtype": "float16"}
    arguments = train.ModelArguments(model=str(tmp_path), load_in_4bit=True, **options)
    found = train.load_model(arguments, base=None, needs_folder=True)[0].config.quantization_config
    assert (found.bnb_4bit_quant_type, found.bnb_4bit_use_double_quant) == ("fp4", True)
    assert found.bnb_4bit_compute_dtype == torch.float16

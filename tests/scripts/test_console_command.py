# SPDX-License-Identifier: Apache-2.0
"""`langbridge COMMAND`, in the checkout and as pip installs it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from in_process import run_script_here
from paths import ROOT, SCRIPTS
from tiny_training import write_samples


SCRIPT = SCRIPTS / "langbridge.py"
COMMANDS = {path.stem for path in SCRIPTS.glob("*.py")} - {"langbridge"}


def listed(help_text: str) -> dict[str, str]:
    """The commands of a help text, each with what it does."""
    lines = help_text.splitlines()
    return {
        name: text.strip() for name, text in zip(lines, lines[1:], strict=False) if text.startswith("    ") and name
    }


def test_help_says_of_every_script_what_it_does(run_script):
    commands = listed(run_script("--help"))
    assert commands.keys() == COMMANDS
    assert commands["check_data"].startswith("Finds everything that is wrong with training data")
    assert str(SCRIPTS / "recipes") in run_script("--help")


@pytest.mark.parametrize("command", ["train", "check_data"])
def test_a_commands_help_is_its_scripts(command, run_script):
    shown = run_script(command, "--help")
    assert shown.startswith(f"usage: langbridge.py {command} ")
    script = run_script_here(SCRIPTS / f"{command}.py", "--help").stdout
    assert shown.partition("\n\n")[2].split() == script.partition("\n\n")[2].split()


def test_a_command_gets_its_arguments_and_ends_as_its_script_does(tmp_path):
    samples = write_samples(tmp_path, number=4)
    assert run_script_here(SCRIPT, "check_data", samples).returncode == 0
    (tmp_path / "red.png").unlink()
    assert run_script_here(SCRIPT, "check_data", samples).returncode == 1
    absent = run_script_here(SCRIPT, "check_data", "absent.json", cwd=tmp_path)
    assert absent.returncode == 2
    assert absent.stderr.startswith("langbridge.py check_data: absent.json cannot be read")


def test_an_unknown_command_is_refused_with_the_known_ones(run_script):
    message = run_script("trian", "--config", "tiny.yaml")
    assert "invalid choice: 'trian'" in message and "'train'" in message


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, Callable[..., CompletedProcess]]:
    """A folder with the package as pip installs its wheel, and its `langbridge` command, which sees no checkout."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("modeling_langbridge", "trainer", "hub_cards", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "install", *offline, "--no-compile", "--target", folder, source], check=True, timeout=200)

    def langbridge(*arguments: object) -> CompletedProcess:
        return subprocess.run(
            [folder / "bin" / "langbridge", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(folder)},
            cwd=folder.parent,
            capture_output=True,
            text=True,
            timeout=200,
        )

    return folder, langbridge


@pytest.mark.slow
def test_pip_installs_the_command_with_all_scripts_and_recipes(installed, tmp_path):
    folder, langbridge = installed
    shown = langbridge("--help").stdout
    assert listed(shown).keys() == COMMANDS
    recipes = Path(shown.split()[-1])
    assert recipes.is_relative_to(folder)
    files = [path.relative_to(SCRIPTS) for end in ("py", "yaml") for path in SCRIPTS.rglob(f"*.{end}")]
    assert not [file for file in files if not (recipes.parent / file).is_file()]
    checked = langbridge("check_data", write_samples(tmp_path, number=4))
    assert checked.returncode == 0, checked.stderr
    assert "4 samples, 0 faulty" in checked.stdout


@pytest.mark.slow
def test_pip_installs_no_package_of_a_general_name(installed):
    names = {path.name for path in installed[0].iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"modeling_langbridge", "trainer", "hub_cards", "langbridge_scripts", "bin"}

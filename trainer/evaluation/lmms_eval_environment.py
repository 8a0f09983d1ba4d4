# SPDX-License-Identifier: Apache-2.0
"""An environment that adds lmms-eval to this one, which stays as it is."""

import json
import os
import shutil
import site
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

from modeling_langbridge.utils.files import atomic_file
from modeling_langbridge.utils.outputs import locked


LMMS_EVAL = "lmms-eval==0.7.3"
# What its evaluator and its tasks on images import. It demands more: torchvision, whose ordinary wheel breaks
# transformers' images beside a torch for CPUs, and what videos, audio, other models and loggers need.
PACKAGES = (
    "evaluate",
    "jsonlines",
    "loguru",
    "numexpr",
    "openai",
    "openpyxl",
    "pytablewriter",
    "python-dotenv",
    "sacrebleu",
    "scikit-learn",
    "tenacity",
    "tqdm-multiprocess",
    "zstandard",
)
SHARED = ("torch", "transformers", "accelerate", "datasets")
DEFAULT_FOLDER = Path.home() / ".cache" / "langbridge" / "lmms_eval"


def make_environment(folder: Path) -> Path:
    """
    Makes a virtual environment that adds lmms-eval to the running one, or finds it made.

    Args:
        folder (`Path`): where it lies, or will. One that is not finished, or was made for another one, is made anew.

    Returns:
        `Path`: its Python.

    Raises:
        `ValueError`: the folder holds something else, or the project's installation is older than its plug-in.
        `OSError`: it cannot be made; the message has pip's last words.
    """
    if not entry_points(group="lmms_eval.models", name="langbridge"):
        raise ValueError(
            "lmms-eval would not find LangBridge, which was installed before it had a plug-in: install it again, with "
            "`make .venv/installed` or `pip install -e .`."
        )
    folder = folder.absolute()
    python, made = folder / "bin" / "python", folder / "langbridge.json"
    wanted = {
        "packages": [LMMS_EVAL, *PACKAGES],
        "python": sys.version,
        "shared": {name: version(name) for name in SHARED},
        "site_packages": site.getsitepackages(),
    }
    if made.is_file() and json.loads(made.read_text(encoding="utf-8")) == wanted:
        return python
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--environment {folder} is a file: name a folder.")
    ours = made.is_file() or (folder / "unfinished").is_file()
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise ValueError(f"--environment {folder} exists and is no environment of this script: name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, folder.parent / f".{folder.name}.lock"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "unfinished").touch()
        sys.stderr.write(f"Making an environment with {LMMS_EVAL} in {folder}, once; this takes about a minute.\n")
        fill(folder, python)
        with atomic_file(made) as unfinished:
            unfinished.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        (folder / "unfinished").unlink()
    return python


def fill(folder: Path, python: Path) -> None:
    call([sys.executable, "-m", "venv", str(folder)])
    packages = next(folder.glob("lib/python*/site-packages"))
    # Behind its own packages; unlike a path alone, `addsitedir` follows editable installations.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
    (packages / "langbridge_shared.pth").write_text("".join(lines), encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call([*pip, *PACKAGES, *(f"{name}=={version(name)}" for name in SHARED)])
    call([*pip, "--no-deps", LMMS_EVAL])


def call(command: list[str]) -> None:
    """Runs a step; `OSError` has what it said last."""
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, env=without, capture_output=True, text=True)
    if result.returncode:
        said = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        raise OSError(
            f"`{' '.join(command[1:4])}` failed for the environment of lmms-eval "
            f"({said[-1].strip() if said else result.returncode}): see to the package index and the disk, then call "
            "this again."
        )

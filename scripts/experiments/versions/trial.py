# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and this package, tried in the environment of one version of transformers."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from packaging.version import Version

import modeling_langbridge
from hub_cards.tested_versions import VersionResult


HERE = Path(__file__).resolve().parent
PROJECT = Path(modeling_langbridge.__file__).resolve().parents[1]
SECONDS = 600
LOGITS_DIFFER, LOSSES_DIFFER = 1e-4, 1e-3  # from here on, absolute


def use_checkpoint(python: Path, folder: Path) -> tuple[dict[str, Any], str]:
    """What each step of `use_checkpoint.py` gave, and why the first that failed did."""
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary) / "result.json"
        reason = run(python, "use_checkpoint.py", folder / "checkpoint", folder / "photo.png", result)
        return json.loads(result.read_text()) if result.is_file() else {}, reason


def try_version(python: Path, version: Version, folder: Path, expected: dict[str, Any]) -> VersionResult:
    """Compares what a version gives with what is expected, which the version that saved the checkpoint gave."""
    found, reason = use_checkpoint(python, folder)
    row = VersionResult(transformers=str(version), loads="loads" in found)
    row.logits = is_close(found, expected, "logits", LOGITS_DIFFER)
    row.generates = row.logits and found.get("tokens") == expected["tokens"]
    row.trains = row.generates and is_close(found, expected, "losses", LOSSES_DIFFER)
    differing = [
        name
        for name, is_same in (("logits", row.logits), ("tokens", row.generates), ("losses", row.trains))
        if name in found and not is_same
    ]
    row.reason = reason or (f"other {differing[0]}" if differing else "")
    failure = run(python, "use_package.py", PROJECT, folder)
    row.package = not failure
    row.reason = "; ".join(filter(None, [row.reason, failure and f"package: {failure}"]))
    return row


def is_close(found: dict[str, Any], expected: dict[str, Any], name: str, tolerance: float) -> bool:
    values, others = np.array(found.get(name, [])), np.array(expected[name])
    return values.shape == others.shape and bool((np.abs(values - others) < tolerance).all())


def run(python: Path, program: str, *arguments: str | Path) -> str:
    """Runs a program of this folder, with empty caches and without the Hub: why it failed, or nothing."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"HF_HOME": home, "HF_MODULES_CACHE": f"{home}/modules", "HF_HUB_OFFLINE": "1"}
        try:
            result = subprocess.run(
                [python, "-I", HERE / program, *arguments],
                cwd=home,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"{program} took more than {SECONDS} s"
    return find_exception(result.stderr) or f"status {result.returncode}" if result.returncode else ""


def find_exception(stderr: str) -> str:
    """What the last traceback says: the exception, and the first sentence of its message."""
    lines = stderr.rpartition("Traceback (most recent call last):")[2].splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith(" ")]
    return " ".join(said[:2] if said and said[0].endswith(":") else said[:1]).partition(". ")[0]

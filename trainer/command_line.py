# SPDX-License-Identifier: Apache-2.0
"""What the scripts share: how they end, their dtypes, and recipes, YAML files that hold a run's options.

Neither this module nor a script imports torch before the command line is parsed, so that `--help` answers at once.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


if TYPE_CHECKING:
    import torch
    from trl import TrlParser


DTYPES = ("float32", "bfloat16", "float16")

# PEFT imports bitsandbytes, which warns on every machine without a GPU of a kernel that only 4-bit models would use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def run_script(main: Callable[[], int | None], *, error_status: int = 1, interrupted: str = "") -> None:
    """
    Runs a script. An error that the user can do something about ends it with one sentence instead of a traceback.

    Args:
        main (`Callable[[], int | None]`):
            The script. What it returns is the exit status, `None` being 0.
        error_status (`int`, *optional*, defaults to 1):
            The exit status after such an error.
        interrupted (`str`, *optional*):
            What Ctrl-C prints before it ends the script with status 130.
    """
    try:
        status = main()
    except KeyboardInterrupt:
        if interrupted:
            sys.stderr.write(f"\n{interrupted}\n")
        sys.exit(130)
    except (OSError, ValueError, FloatingPointError, SafetensorError, StrictDataclassError) as error:
        # A strict dataclass, such as a model's configuration, wraps the sentence in one of its own.
        cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
        sentence = f"{Path(sys.argv[0]).name}: {cause or error}"
        if error_status == 1:
            sys.exit(sentence)
        sys.stderr.write(f"{sentence}\n")
        sys.exit(error_status)
    if status:
        sys.exit(status)


def torch_dtype(name: str | None) -> "torch.dtype | None":
    """The dtype of one of the names in `DTYPES`, `None` for `None`."""
    import torch

    return None if name is None else getattr(torch, name)


def check_output_file(path: Path | None) -> None:
    """Raises `ValueError` where `--output` names a file that exists or cannot be written, or a missing folder."""
    if path is None:
        return
    check_new_file(path, "--output")
    if not path.parent.is_dir():
        raise ValueError(f"--output {path} cannot be written: there is no folder {path.parent}.")


def check_new_file(path: Path, flag: str) -> None:
    """Raises `ValueError` where a flag's file exists, or nothing can be written to the nearest folder above it."""
    if path.exists():
        raise ValueError(f"{flag} {path} exists: remove it or name another one.")
    above = next(folder for folder in path.resolve().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise ValueError(f"{flag} {path} cannot be written ({error.strerror}): name another place.") from error


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines and shows the defaults."""


def recipe_parser(dataclass_types: tuple[type, ...], description: str) -> "TrlParser":
    """A parser of these dataclasses' fields whose `--help` begins with what the script does, not with 200 options."""
    from trl import TrlParser

    usage = "%(prog)s [--config RECIPE] [--option value ...]"
    return TrlParser(dataclass_types, description=description, usage=usage, formatter_class=HelpFormatter)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """
    Reads a recipe and those it extends (`extends: other.yaml`, beside it); the nearer one wins.

    Raises:
        `ValueError`: a file that is missing, or no YAML mapping; it is named.
    """
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"The recipe {path} cannot be read: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} must be a YAML mapping of options to values.")
    base = recipe.pop("extends", None)
    return recipe if base is None else {**read_recipe(Path(path).parent / base), **recipe}


def parse_recipe(parser: "TrlParser", arguments: list[str] | None = None) -> tuple[Any, ...]:
    """
    Parses the command line, with the recipe that `--config` names as the defaults.

    Raises:
        `ValueError`: a recipe that cannot be read, or that holds an option which does not exist.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--config" in arguments:
        position = arguments.index("--config")
        if position + 1 == len(arguments):
            raise ValueError("--config needs the name of a recipe, such as scripts/recipes/tiny.yaml.")
        path = arguments[position + 1]
        del arguments[position : position + 2]
        unknown = parser.set_defaults_with_config(**read_recipe(path))
        if unknown:
            raise ValueError(f"The recipe {path} holds options that do not exist: {unknown[::2]}.")
    return parser.parse_args_into_dataclasses(arguments)

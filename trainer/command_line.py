# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML files that hold a run's options, each naming only what differs from the one it extends."""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from trl import TrlParser


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines and shows the defaults."""


def recipe_parser(dataclass_types: tuple[type, ...], description: str) -> TrlParser:
    """A parser of these dataclasses' fields whose `--help` begins with what the script does, not with 200 options."""
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


def parse_recipe(parser: TrlParser, arguments: list[str] | None = None) -> tuple[Any, ...]:
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

# SPDX-License-Identifier: Apache-2.0
"""The command line of a training run: options of dataclasses, and recipes, YAML files that hold a run's options."""

import argparse
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from trl import TrlParser

from .command_line import HelpFormatter
from .device import fit_to_machine


EPILOG = "The options of transformers and TRL, of which only the most used are shown: --help_all."


class RecipeParser(TrlParser):
    """
    A parser of the dataclasses' fields whose `--help` shows the options of this project; `--help_all` shows 200 more.

    Values are turned into the fields' types where they can be. The dataclasses refuse the others, in the same words
    whether they come from the command line, a recipe or Python: [`~trainer.option_values.check_values`].

    Args:
        dataclass_types (`tuple[type, ...]`): what is parsed; a field's own class says whose it is.
        description (`str`): what the script does.
    """

    def __init__(self, dataclass_types: tuple[type, ...], description: str = ""):
        usage = "%(prog)s [--config RECIPE] [--option value ...]"
        super().__init__(
            dataclass_types,
            description=description,
            usage=usage,
            epilog=EPILOG,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        try:
            return super()._get_value(action, text)
        except argparse.ArgumentError:
            return text

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Choices are the dataclasses' to check."""

    def show_help(self, everything: bool) -> None:
        """Prints the help, all of it or that of the options which classes of this project state."""
        own = {
            name
            for dataclass_type in self.dataclass_types
            for base in dataclass_type.__mro__
            if base.__module__.partition(".")[0] not in ("transformers", "trl")
            for name in base.__dict__.get("__annotations__", {})
        }
        for action in self._actions:
            if not everything and action.dest not in {*own, "help"}:
                action.help = argparse.SUPPRESS
        self.print_help()
        self.exit()

    def parse(
        self,
        arguments: list[str] | None = None,
        fit: Callable[[dict[str, Any]], dict[str, Any]] = fit_to_machine,
    ) -> tuple[Any, ...]:
        """
        Parses the command line, with the recipe that `--config` names as the defaults.

        Args:
            arguments (`list[str]`, *optional*): the command line; that of the process by default.
            fit (`Callable`, *optional*): makes the options of the recipe fit the machine, by default this one.

        Returns:
            `tuple` of an instance of each dataclass, and the set of the names of the options on the command line.

        Raises:
            `ValueError`: a recipe that cannot be read, an option that does not exist, or a value that is not its.
        """
        arguments = sys.argv[1:] if arguments is None else arguments
        before = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=self.usage)
        before.add_argument("--config", action="append", nargs="?", default=[])
        before.add_argument("-h", "--help", action="store_true")
        before.add_argument("--help_all", action="store_true")
        asked, arguments = before.parse_known_args(arguments)
        if asked.help or asked.help_all:
            self.show_help(asked.help_all)
        if len(asked.config) > 1:
            raise ValueError("--config is given more than once: write a recipe that `extends` the other one.")
        if None in asked.config:
            raise ValueError("--config needs the name of a recipe, such as scripts/recipes/tiny.yaml.")
        recipe = read_recipe(asked.config[0]) if asked.config else {}
        names = {action.dest for action in self._actions}
        if unknown := [name for name in recipe if name not in names]:
            raise ValueError(f"The recipe {asked.config[0]} holds {no_option(unknown[0], names)}.")
        self.set_defaults_with_config(**fit(recipe))
        *parsed, unread = self.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
        if unread:
            name = unread[0].removeprefix("--")
            is_option = name != unread[0]
            raise ValueError(f"There is {no_option(name, names)}." if is_option else f"{name!r} belongs to no option.")
        given = [argument[2:] for argument in arguments if argument.startswith("--")]
        return *parsed, {option.partition("=")[0].replace("-", "_") for option in given}


def no_option(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(str(name), names, n=1)
    return f"no option {name}" + (f": do you mean {near[0]}?" if near else "")


def read_recipe(path: str | Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """
    Reads a recipe and those it extends (`extends: other.yaml`, beside it); the nearer one wins.

    Args:
        path (`str` or `Path`): the recipe's file.
        extended_by (`tuple[Path, ...]`, *optional*): those that led to it.

    Raises:
        `ValueError`: a file that is missing, or no YAML mapping, or extends itself; it is named.
    """
    path = Path(path)
    if path.resolve() in extended_by:
        raise ValueError(f"The recipe {path} extends itself, over {extended_by[-1].name}: remove one `extends`.")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The recipe {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} must be a YAML mapping of options to values.")
    base = recipe.pop("extends", None)
    if base is None:
        return recipe
    if not isinstance(base, str):
        raise ValueError(f"`extends` of the recipe {path} is {base!r}: give the file name of one recipe.")
    return {**read_recipe(path.parent / base, (*extended_by, path.resolve())), **recipe}

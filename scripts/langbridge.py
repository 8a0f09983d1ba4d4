# SPDX-License-Identifier: Apache-2.0
"""The console command: `langbridge train --help` is `python scripts/train.py --help`, from any folder."""

import argparse
import ast
import runpy
import sys
from pathlib import Path


FOLDER = Path(__file__).resolve().parent


def first_line(script: Path) -> str:
    """What a script says of itself, read without running it."""
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))).partition("\n")[0]


def main() -> None:
    scripts = {path.stem: path for path in sorted(FOLDER.glob("*.py")) if path.stem != "langbridge"}
    parser = argparse.ArgumentParser(
        usage="%(prog)s COMMAND [--option value ...]",
        description="\n".join(f"{name}\n    {first_line(script)}" for name, script in scripts.items()),
        epilog=f"Recipes for train and ground (--config): {FOLDER / 'recipes'}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=scripts, help="one of these; COMMAND --help says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    # As `python scripts/COMMAND.py` has it: the scripts find one another's `experiments` there.
    sys.path.insert(0, str(FOLDER))
    sys.argv = [f"{parser.prog} {chosen.command}", *chosen.arguments]
    runpy.run_module(chosen.command, run_name="__main__")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What every refusal of bad input has in common, for tables of options and the sentences that they end with."""

import re
from collections.abc import Sequence
from pathlib import Path

from in_process import run_script_here


def assert_refused(script: Path, arguments: Sequence[object], sentence: str, folder: Path) -> str:
    """
    Asserts that a script ends with one sentence instead of a traceback, and leaves everything as it was.

    Args:
        script (`Path`): The script, which runs in this process.
        arguments (`Sequence`): Its command line.
        sentence (`str`): A regular expression that the sentence must match: what is wrong, and what to do.
        folder (`Path`): Where the script runs, and may write: not a file in it may appear, change or go.

    Returns:
        `str`: the sentence, without the script's name.
    """
    before = contents_of(folder)
    result = run_script_here(script, *arguments, cwd=folder)
    assert result.returncode in (1, 2), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.rstrip("\n").rpartition("\n")[2]
    # argparse says "error: " after the name, and the usage before.
    name, _, found = last.partition(": ")
    assert name == script.name and len(found) < 600, last
    assert re.search(sentence, found), found
    assert contents_of(folder) == before
    return found


def contents_of(folder: Path) -> dict[str, bytes | None]:
    """The content of every file under a folder by its path, and `None` for folders."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in paths.items()}

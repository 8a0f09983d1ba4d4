# SPDX-License-Identifier: Apache-2.0
"""Commands in this process, as fresh ones spend most of their time importing."""

import logging
import os
import runpy
import sys
from collections.abc import Callable
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess


@contextmanager
def all_put_back():
    """Puts back what a command may change for the whole process."""
    arguments, environment = sys.argv, dict(os.environ)
    loggers = [logging.root, *(logging.getLogger(name) for name in ("trainer", "modeling_langbridge", "hub_cards"))]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    logging.root.handlers.clear()  # else `logging.basicConfig` does nothing
    try:
        yield
    finally:
        for logger, (handlers, level) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = arguments


def run_here(command: Callable[[], object], arguments: list[object], folder: Path) -> CompletedProcess:
    """Calls `command` with `sys.argv` and a working folder, and gives what a process would leave."""
    output, errors, status = StringIO(), StringIO(), 0
    with all_put_back(), chdir(folder), redirect_stdout(output), redirect_stderr(errors):
        sys.argv = list(map(str, arguments))
        try:
            command()
        except SystemExit as end:
            status = end.code or 0
            if isinstance(status, str):
                errors.write(f"{status}\n")
                status = 1
    return CompletedProcess(sys.argv, status, output.getvalue(), errors.getvalue())


def run_script_here(script: Path, *arguments: object, cwd: Path | None = None) -> CompletedProcess:
    """What `python script arguments` leaves; an error that the script does not turn into a sentence is raised."""
    return run_here(lambda: runpy.run_path(str(script), run_name="__main__"), [script, *arguments], cwd or Path())


def run_code_here(code: str, cwd: Path) -> CompletedProcess:
    """What `python -c code` leaves."""
    return run_here(lambda: exec(compile(code, "<string>", "exec"), {"__name__": "__main__"}), ["-c"], cwd)

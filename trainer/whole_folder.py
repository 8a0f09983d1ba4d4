# SPDX-License-Identifier: Apache-2.0
"""A folder that appears whole or not at all: written beside its place and moved there when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a temporary sibling of `path` to write into, and renames it to `path` when the block ends without an error.

    Args:
        path (`str` or `os.PathLike`):
            The folder to be. It must not exist yet, or be empty.

    Raises:
        `FileExistsError`: `path` exists and is not an empty folder; nothing in it is touched.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder: remove it or name another one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp's folders are the owner's alone
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

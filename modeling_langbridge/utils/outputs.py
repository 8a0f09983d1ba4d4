# SPDX-License-Identifier: Apache-2.0
"""What files and folders that are written have in common: a lock against a second writer, and permissions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(path: Path | str, lock_file: Path) -> Iterator[None]:
    """
    Holds a lock for a block; the operating system releases it where the process dies.

    Args:
        path (`Path` or `str`): What the block writes, for the error.
        lock_file (`Path`): The file that is locked, and removed at the end. Its folder must exist.

    Raises:
        `OSError`: another run holds the lock, or the file cannot be written.
    """
    lock = FileLock(lock_file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(f"Another run is writing to {path}: wait until it ends, or name another folder.") from None
    try:
        yield
    finally:
        lock_file.unlink(missing_ok=True)  # still locked: whoever opened it meanwhile sees that it is gone
        lock.release()


def give_ordinary_permissions(folder: Path) -> None:
    """Gives a folder and all in it the permissions that the umask leaves, not those of safetensors and tempfile."""
    probe = folder / ".permissions"
    probe.mkdir()
    allowed = probe.stat().st_mode
    probe.rmdir()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(allowed if path.is_dir() else allowed & 0o666)

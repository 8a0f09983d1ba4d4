# SPDX-License-Identifier: Apache-2.0
"""Files in local folders and on the Hub: finding, reading with readable errors, atomic writing, and uploading."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils.hub import cached_files

from .outputs import give_ordinary_permissions, locked


def is_hub_id(name: str) -> bool:
    """Whether a name may be a repository's on the Hub; paths of several folders may not."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def find_folder(name: str | os.PathLike, files: Sequence[str], revision: str | None = None) -> Path:
    """
    The local folder that holds a repository's files, downloaded from the Hub where necessary.

    Args:
        name (`str` or `os.PathLike`):
            A folder, which is returned unchanged, or a Hub id.
        files (`Sequence[str]`):
            The files to download from the Hub. All of them must exist.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub; `main` when left out.

    Raises:
        `OSError`: there is no such folder, and no repository with these files on the Hub or, offline, in the cache.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(str(name)):
        raise FileNotFoundError(f"There is no folder {name}.")
    try:
        return Path(cached_files(str(name), list(files), revision=revision)[0]).parent
    except OSError as error:
        reason, files = first_line(error), ", no ".join(files)
        raise OSError(f"There is no folder {name}, and the Hub gives no {files} of that name ({reason}).") from error


def push_saved(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """
    Uploads the files that `save` writes, without a model card.

    Args:
        save (`Callable[[Path], None]`):
            Called with an empty folder; writes the files into it.
        repo_id (`str`):
            The repository, which is created where it does not exist.
        commit_message, private, token, create_pr:
            As of [`~transformers.utils.PushToHubMixin.push_to_hub`].

    Raises:
        `OSError`: from the Hub.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            create_pr=create_pr,
        )


def first_line(error: Exception) -> str:
    """The first line of an error's message, without the full stop."""
    return str(error).strip().splitlines()[0].rstrip(" .:")


def read_json(path: str | os.PathLike) -> Any:
    """
    Reads a JSON file.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is damaged.
    """
    require_file(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # both what is not JSON and what is not UTF-8
        raise ValueError(f"{path} is damaged, it is not JSON ({error}): save or download it again.") from error


def read_safetensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    Reads all tensors of a safetensors file.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is damaged.
    """
    require_file(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): save or download it again.") from error


def require_file(path: str | os.PathLike) -> None:
    """Raises `FileNotFoundError` where there is no such file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    Yields a temporary path beside `path`, and renames it to `path` when the block ends without an error.

    Args:
        path (`str` or `os.PathLike`):
            The file to write or replace. Of a symlink the target is written. Its folder must exist.

    Raises:
        `OSError`: before the block, the file cannot be written there.
    """
    path = Path(path).resolve()
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file.")
    try:
        unfinished.touch()
    except OSError as error:
        raise type(error)(f"{path} cannot be written ({error.strerror}): name another place.") from error
    permissions = unfinished.stat().st_mode
    try:
        yield unfinished
        unfinished.chmod(permissions)  # safetensors writes files for the owner only
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """
    Yields a temporary folder beside `path`, and renames it to `path` when the block ends without an error.

    Args:
        path (`str` or `os.PathLike`):
            The folder to create, with those above it. It must not exist yet, or be empty. Of a symlink the target is
            written.

    Raises:
        `FileExistsError`: `path` exists and is not an empty folder; nothing in it is touched.
        `OSError`: before the block, nothing can be written there, or another run is writing it.
    """
    name, path = path, Path(path).resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{name} exists and is not an empty folder: remove it or name another one.")
    above = next(folder for folder in path.parents if folder.exists())
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=above))
    except OSError as error:
        raise type(error)(f"{name} cannot be written ({error.strerror}): name another place.") from error
    try:
        with locked(name, above / f".{path.name}.lock"):
            yield unfinished
            give_ordinary_permissions(unfinished)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

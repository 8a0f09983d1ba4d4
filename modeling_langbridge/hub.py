# SPDX-License-Identifier: Apache-2.0
"""Files of a repository: found in a folder here, or on the Hub by way of transformers' cache, and pushed there."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from transformers.utils.hub import cached_files

from .errors import first_line


def find_folder(name: str | os.PathLike, files: Sequence[str], revision: str | None = None) -> Path:
    """
    The folder that holds a repository's files.

    Args:
        name (`str` or `os.PathLike`):
            A folder, which is returned as it is, or a Hub id.
        files (`Sequence[str]`):
            The files to fetch from the Hub, all of which it must have.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub; `main` when left out.

    Raises:
        `OSError`: there is no such folder, nor a repository with these files on the Hub or, offline, in the cache.
    """
    if Path(name).is_dir():
        return Path(name)
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
    Uploads what `save` writes into an empty folder, without a card.

    Args:
        save (`Callable[[Path], None]`):
            Writes the files into the folder it is given.
        repo_id (`str`):
            The repository, which is made where it does not exist.
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

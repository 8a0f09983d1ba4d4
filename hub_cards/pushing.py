# SPDX-License-Identifier: Apache-2.0
"""Publishes a folder on the Hub: checks it, uploads it in one commit, then the card, which names that commit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    get_token,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .cards import make_card
from .eval_results import find_eval_results
from .facts import CardFacts
from .local_paths import find_local, require_nothing_local
from .markdown import one_line
from .repository import (
    Kind,
    files_to_push,
    kind_of,
    may_be_loaded,
    require_usable,
)


CARD = "README.md"
MADE_BY_THE_HUB = {".gitattributes"}


@dataclass(frozen=True)
class Publication:
    """A folder that has passed every offline check: its kind, the files to upload by their names, and a first card."""

    folder: Path
    kind: Kind
    files: dict[str, Path]
    left_out: list[str]
    card: ModelCard


def prepare(folder: Path, repo_id: str, facts: CardFacts) -> Publication:
    """
    Checks everything that can be checked before anything is uploaded.

    Args:
        folder (`Path`):
            A model, an adapter, a vocabulary or an exported LLaVA.
        repo_id (`str`):
            The repository's name on the Hub, `user/name` or `name`.
        facts ([`~hub_cards.facts.CardFacts`]):
            What the card states beside the folder's own files.

    Raises:
        `ValueError`: the folder is none of these, is incomplete or of no use (see
        [`~hub_cards.repository.require_usable`]), a setting holds a local path, the repository name is not valid, or
        the card lacks a fact.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"The Hub takes no repository called {repo_id!r}: {one_line(str(error))}") from None
    kind = kind_of(folder)
    names = [name for name in files_to_push(folder, kind) if name != CARD]
    require_nothing_local(folder, names)
    require_usable(folder, kind)
    card = make_card(folder, replace(facts, repo_id=repo_id))
    if local := find_local(str(card)):
        raise ValueError(
            f"The card would say {local!r}, which is local to this machine: give a name that others can find."
        )
    files = {name: folder / name for name in names} | find_eval_results(*facts.evaluations)
    top = {name.split("/")[0] for name in names}
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in {*top, CARD})
    return Publication(folder, kind, files, left_out, card)


def push_folder(
    folder: Path,
    repo_id: str,
    facts: CardFacts,
    *,
    private: bool | None = None,
    token: str | None = None,
    exist_ok: bool = False,
) -> CommitInfo:
    """
    Publishes a folder: everything in one commit, then the card, whose loading code is pinned to that commit.

    Run it again after an interruption: files that were uploaded completely are not uploaded again.

    Args:
        folder, repo_id, facts:
            As for [`prepare`].
        private (`bool`, *optional*):
            Whether a new repository is private. The account's default when left out.
        token (`str`, *optional*):
            A token with write access. The one saved by `hf auth login` when left out.
        exist_ok (`bool`, *optional*, defaults to `False`):
            Whether to write into a repository that holds files. Model files of an earlier push that are not in this
            one are deleted, since loading might prefer them.

    Returns:
        `CommitInfo`: the commit that holds the files; its `oid` is a `revision`.

    Raises:
        `ValueError`: as for [`prepare`]; or the Hub refuses the name, or there is no token.
        `FileExistsError`: the repository holds files, or is public where `private` is asked for.
        `PermissionError`: the token is wrong or has no write access to the repository.
        `FileNotFoundError`: this token cannot see the repository.
        `ConnectionError`: the network or the Hub failed.
    """
    publication = prepare(folder, repo_id, facts)
    token = token or get_token()
    if token is None:
        raise ValueError("There is no token to push with: run `hf auth login`, or give one (--token, or HF_TOKEN).")
    api = HfApi(token=token)
    with explain_hub_errors(repo_id):
        try:
            publication.card.validate()
        except ValueError as error:
            raise ValueError(f"The Hub does not accept the card: {one_line(str(error))}") from error
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        info = api.model_info(repo_id)
        held = {file.rfilename for file in info.siblings} - MADE_BY_THE_HUB
        if private and not info.private:
            raise FileExistsError(f"{repo_id} exists and is public: make it private in its settings first.")
        if held and not exist_ok:
            raise FileExistsError(
                f"{repo_id} exists and holds files: name another repository, or give --exist_ok to overwrite them."
            )
        stale = sorted(name for name in held - {*publication.files, CARD} if may_be_loaded(name))
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, path) for name, path in publication.files.items()]
            + [CommitOperationDelete(name) for name in stale],
            commit_message=f"Upload a LangBridge {publication.kind}",
        )
    card = make_card(folder, replace(facts, repo_id=repo_id, revision=commit.oid))
    so_far = f"The files are uploaded, in commit {commit.oid}, but the card is not: add --exist_ok for it. "
    with explain_hub_errors(repo_id, so_far):
        api.create_commit(repo_id, [CommitOperationAdd(CARD, str(card).encode())], commit_message="Write the card")
    return commit


@contextmanager
def explain_hub_errors(repo_id: str, so_far: str = "") -> Iterator[None]:
    """Re-raises an error of the Hub or the network with a message that explains it and what to do."""
    try:
        yield
    # The upload of a large file raises a RuntimeError, or with Xet Python's own ConnectionError.
    except (HTTPError, RuntimeError, ConnectionError) as error:
        kind, sentence = hub_error_message(error, repo_id)
        raise kind(so_far + sentence) from error


def hub_error_message(error: BaseException, repo_id: str) -> tuple[type[Exception], str]:
    """The exception class and the message that explain an error of the Hub or the network."""
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError, "HF_HUB_OFFLINE is set, so nothing can be published: unset it."
    if not isinstance(error, HfHubHTTPError):
        return ConnectionError, (
            f"The connection to the Hub broke off ({one_line(str(error))}): run the same command again; files that "
            "were uploaded completely are not uploaded again."
        )
    status, says = error.response.status_code, one_line(error.server_message or "no reason given")
    if status == 401:
        return PermissionError, (
            f"The Hub does not accept the token ({says}): create one with write access at "
            "https://huggingface.co/settings/tokens, then `hf auth login`."
        )
    if status == 403:
        return PermissionError, f"This token may not write to {repo_id} ({says}): use one that may, or another name."
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError, (
            f"There is no repository {repo_id} that this token can see: it is private, or the name is wrong."
        )
    if status == 400:
        return ValueError, f"The Hub refuses this push to {repo_id}: {says}"
    return ConnectionError, f"The Hub answers {status} ({says}): run the same command again later."

# SPDX-License-Identifier: Apache-2.0
"""A folder published on the Hub: checked first, sent in one commit, then its card, which names that commit."""

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
from .facts import CardFacts
from .local_paths import find_local, require_nothing_local
from .markdown import one_line
from .repository import (
    Kind,
    files_to_push,
    kind_of,
    may_be_loaded,
)


CARD = "README.md"
MADE_BY_THE_HUB = {".gitattributes"}


@dataclass(frozen=True)
class Publication:
    """A folder that has passed every check that needs no network: what it is, what is sent, and a first card."""

    folder: Path
    kind: Kind
    files: list[str]
    left_out: list[str]
    card: ModelCard


def prepare(folder: Path, repo_id: str, facts: CardFacts) -> Publication:
    """
    Checks all that can be checked before anything is sent.

    Args:
        folder (`Path`):
            A model, an adapter, a vocabulary or an exported LLaVA.
        repo_id (`str`):
            The repository's name on the Hub, `user/name` or `name`.
        facts ([`~hub_cards.facts.CardFacts`]):
            What the card says beside what it reads in the folder.

    Raises:
        `ValueError`: the folder is none of these or is not whole, a setting names a path of this machine, the Hub
        takes no such name, or the card lacks a fact.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"The Hub takes no repository called {repo_id!r}: {one_line(str(error))}") from None
    kind = kind_of(folder)
    files = [name for name in files_to_push(folder, kind) if name != CARD]
    require_nothing_local(folder, files)
    card = make_card(folder, replace(facts, repo_id=repo_id))
    if local := find_local(str(card)):
        raise ValueError(
            f"The card would say {local!r}, which belongs to this machine: name it as others can find it."
        )
    top = {name.split("/")[0] for name in files}
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
    Publishes a folder: everything in one commit, then the card, whose loading lines are pinned to that commit.

    Run again after an interruption, it goes on: what has arrived whole is not sent again.

    Args:
        folder, repo_id, facts:
            As for [`prepare`].
        private (`bool`, *optional*):
            Whether a new repository is private. The account's default when left out.
        token (`str`, *optional*):
            A token that may write. The one that `hf auth login` has kept when left out.
        exist_ok (`bool`, *optional*, defaults to `False`):
            Whether to write into a repository that holds files. Those of an earlier push that are not in this one are
            deleted, since loading might prefer them.

    Returns:
        `CommitInfo`: the commit that holds the files, `oid` being what `revision=` takes.

    Raises:
        `ValueError`: as for [`prepare`]; or the Hub refuses the name, or there is no token.
        `FileExistsError`: the repository holds files, or is public where `private` is asked for.
        `PermissionError`: the token is wrong or may not write there.
        `FileNotFoundError`: the repository is not to be seen with this token.
        `ConnectionError`: the network or the Hub failed.
    """
    publication = prepare(folder, repo_id, facts)
    token = token or get_token()
    if token is None:
        raise ValueError("There is no token to push with: run `hf auth login`, or give one (--token, or HF_TOKEN).")
    api = HfApi(token=token)
    with told_in_one_sentence(repo_id):
        try:
            publication.card.validate()
        except ValueError as error:
            raise ValueError(f"The Hub does not take the card: {one_line(str(error))}") from error
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        info = api.model_info(repo_id)
        held = {file.rfilename for file in info.siblings} - MADE_BY_THE_HUB
        if private and not info.private:
            raise FileExistsError(f"{repo_id} exists and is public: make it private in its settings first.")
        if held and not exist_ok:
            raise FileExistsError(
                f"{repo_id} exists and holds files: name another repository, or give --exist_ok to write over them."
            )
        stale = sorted(name for name in held - {*publication.files, CARD} if may_be_loaded(name))
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, folder / name) for name in publication.files]
            + [CommitOperationDelete(name) for name in stale],
            commit_message=f"Upload a LangBridge {publication.kind}",
        )
    card = make_card(folder, replace(facts, repo_id=repo_id, revision=commit.oid))
    so_far = f"The files are there, in commit {commit.oid}, but not the card, for which add --exist_ok. "
    with told_in_one_sentence(repo_id, so_far):
        api.create_commit(repo_id, [CommitOperationAdd(CARD, str(card).encode())], commit_message="Write the card")
    return commit


@contextmanager
def told_in_one_sentence(repo_id: str, so_far: str = "") -> Iterator[None]:
    """Says what an error of the Hub or the network means and what to do, instead of what was requested."""
    try:
        yield
    # What befalls a large file is a RuntimeError, or with Xet Python's own ConnectionError.
    except (HTTPError, RuntimeError, ConnectionError) as error:
        kind, sentence = explain(error, repo_id)
        raise kind(so_far + sentence) from error


def explain(error: BaseException, repo_id: str) -> tuple[type[Exception], str]:
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError, "HF_HUB_OFFLINE is set, so nothing can be published: unset it."
    if not isinstance(error, HfHubHTTPError):
        return ConnectionError, (
            f"The connection to the Hub broke off ({one_line(str(error))}): run the same command again, what "
            "has arrived whole is not sent again."
        )
    status, says = error.response.status_code, one_line(error.server_message or "no reason given")
    if status == 401:
        return PermissionError, (
            f"The Hub does not accept the token ({says}): make one with write access at "
            "https://huggingface.co/settings/tokens, then `hf auth login`."
        )
    if status == 403:
        return PermissionError, f"This token may not write to {repo_id} ({says}): take one that may, or another name."
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError, (
            f"There is no repository {repo_id} that this token can see: it is somebody else's, or the name is wrong."
        )
    if status == 400:
        return ValueError, f"The Hub refuses this push to {repo_id}: {says}"
    return ConnectionError, f"The Hub answers {status} ({says}): run the same command again later."

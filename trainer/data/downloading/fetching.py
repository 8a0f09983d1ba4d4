# SPDX-License-Identifier: Apache-2.0
"""Fetches a file over HTTP: goes on where a broken transfer ended, and keeps nothing but the file that was meant."""

import hashlib
import re
import shutil
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from .record import DownloadRecord
from .sources import DataFile


ATTEMPTS = 5  # in a row without a further byte
BACKOFF = 2.0  # seconds, doubled from attempt to attempt
LONGEST_WAIT = 60  # seconds, whatever a server asks for
TIMEOUT = (10, 60)  # seconds to connect, and between two packets
BLOCK = 2**16
IS_ARCHIVE = {".zip": zipfile.is_zipfile, ".tar": tarfile.is_tarfile}


class NotFetched(Exception):
    """Why one address does not give the file; the next one may."""


class WrongContent(Exception):
    """What a file is, or has, that the one that was meant is not or has not."""


@dataclass(frozen=True)
class Answer:
    """What a server says of the file that it begins to send."""

    start: int  # the first byte that it sends
    size: int | None  # of the whole file
    version: str | None  # by which a later request asks for the same file
    sha256: str | None  # the Hub publishes one for its large files


def open_session() -> requests.Session:
    """A session that tries again where a server is busy, after the time that it asks for."""
    session = requests.Session()
    session.headers.update({"User-Agent": "langbridge", "Accept-Encoding": "identity"})
    retry = Retry(
        ATTEMPTS,
        status_forcelist=[429, 500, 502, 503, 504],
        backoff_factor=BACKOFF,
        backoff_max=LONGEST_WAIT,
        retry_after_max=LONGEST_WAIT,
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def fetch(file: DataFile, path: Path, record: DownloadRecord, session: requests.Session) -> None:
    """
    Fetches a file from the first of its addresses that gives it, and enters it in the record.

    What a broken transfer leaves is kept as `path` with `.part` behind, and the next one goes on from there, unless
    the server says that the file has changed.

    Args:
        file ([`DataFile`]): What and from where.
        path (`Path`): Where it goes. It appears when it is complete and checked.
        record ([`DownloadRecord`]): What was fetched before.
        session (`requests.Session`): From [`open_session`].

    Raises:
        `OSError`: no address gives the file, or it cannot be written.
    """
    reasons = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for url in file.urls:
        try:
            return fetch_from(url, file, path, record, session)
        except NotFetched as reason:
            reasons.append(f"{url} {reason}")
    said = "; ".join(reasons)
    raise OSError(f"{file.path} is not fetched: {said}. Run the command again later, or put the file at {path}.")


def fetch_from(url: str, file: DataFile, path: Path, record: DownloadRecord, session: requests.Session) -> None:
    """Fetches a file from one address, or raises [`NotFetched`]."""
    part = path.with_name(f"{path.name}.part")
    furthest, idle, resumed = 0, 0, False
    while (headers := headers_to_go_on(url, file, part, record)) is not None:
        resumed = resumed or "Range" in headers
        if transfer(url, headers, file, part, record, session):
            break
        reached = part.stat().st_size if part.exists() else 0
        idle = 0 if reached > furthest else idle + 1
        furthest = max(reached, furthest)
        if idle == ATTEMPTS:
            raise NotFetched(f"breaks off {ATTEMPTS} times in a row, after {furthest:,} bytes")
        if idle:
            time.sleep(BACKOFF * 2**idle)
    try:
        sha256 = check_content(part, file, record)
    except WrongContent as error:
        part.unlink()
        if resumed:  # its beginning may be that of another file
            return fetch_from(url, file, path, record, session)
        raise NotFetched(f"sends a file that {error}") from error
    part.replace(path)
    record.finish(file.path, url=url, size=path.stat().st_size, sha256=sha256, date=time.strftime("%Y-%m-%d"))


def headers_to_go_on(url: str, file: DataFile, part: Path, record: DownloadRecord) -> dict[str, str] | None:
    """The headers that ask for the rest of a file, or for all of it; `None` where nothing is missing."""
    begun = record.parts.get(file.path)
    have = part.stat().st_size if begun and part.exists() else 0
    if not have:
        return {}
    if have == begun["size"]:
        return None
    if begun["url"] == url and begun["version"]:
        return {"Range": f"bytes={have}-", "If-Range": begun["version"]}
    # Another address: what comes of it is compared with the checksum.
    return {"Range": f"bytes={have}-"} if file.sha256 or begun["sha256"] else {}


def transfer(
    url: str, headers: dict[str, str], file: DataFile, part: Path, record: DownloadRecord, session: requests.Session
) -> bool:
    """One request: appends what the server sends to the part, or begins it anew. Whether the file is complete then."""
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise NotFetched(f"cannot be reached ({innermost(error)})") from error
    with response:
        if response.status_code == 416:  # the part is not the beginning of this file
            part.unlink(missing_ok=True)
            return False
        answer = read_answer(response, file)
        if answer.start not in (0, part.stat().st_size if part.exists() else 0):
            raise NotFetched("sends another range than the one that was asked for")
        missing, free = (answer.size or file.size) - answer.start, shutil.disk_usage(part.parent).free
        if missing > free:
            raise OSError(f"{part} needs {missing:,} more bytes and {free:,} are free: make room and run it again.")
        if not answer.start:
            sha256 = answer.sha256 or record.promised(file.path)
            record.begin(file.path, url=url, size=answer.size, version=answer.version, sha256=sha256)
        bar = tqdm(desc=file.path, total=answer.size, initial=answer.start, unit="B", unit_scale=True)
        with bar, part.open("ab" if answer.start else "wb") as output:
            blocks = response.iter_content(BLOCK)
            while block := next_of(blocks):
                write(block, output, part)
                bar.update(len(block))
    return block is not None and answer.size in (None, part.stat().st_size)


def next_of(blocks: Iterator[bytes]) -> bytes | None:
    """The next block, an empty one at the end, and none where the connection breaks off."""
    try:
        return next(blocks, b"")
    except requests.RequestException:
        return None


def write(block: bytes, output: BinaryIO, part: Path) -> None:
    try:
        output.write(block)
    except OSError as error:
        said = f"{part} cannot be written ({error.strerror}): make room and run the command again"
        raise OSError(f"{said}, which goes on from there.") from error


def innermost(error: BaseException) -> BaseException:
    """What an error that libraries wrap in their own began with."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def read_answer(response: requests.Response, file: DataFile) -> Answer:
    """What the headers of an answer say; raises [`NotFetched`] for one that does not begin the file."""
    status, headers = response.status_code, response.headers
    if status not in (200, 206):
        wait = f" (Retry-After: {headers['Retry-After']})" if "Retry-After" in headers else ""
        closed = ", which may want a login or accepted terms" if status in (401, 403) else ""
        raise NotFetched(f"answers {status} {response.reason}{wait}{closed}")
    if headers.get("Content-Type", "").startswith("text/html"):
        raise NotFetched("answers with a web page in place of the file")
    start, size = 0, headers.get("Content-Length")
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if match is None:
            raise NotFetched("sends a part of the file without saying which")
        start, size = int(match[1]), match[2] if match[2] != "*" else None
    size = None if size is None else int(size)
    if size is not None and not file.rounded and size != file.size:
        raise NotFetched(f"offers {size:,} bytes, and the file has {file.size:,}")
    # A weak ETag is the same for files that differ; the Hub names a large file by its SHA-256 before it redirects.
    etag = headers.get("ETag")
    version = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    linked = [redirect.headers.get("X-Linked-ETag", "").strip('"') for redirect in response.history]
    sha256 = next((tag for tag in linked if re.fullmatch("[0-9a-f]{64}", tag)), None)
    return Answer(start, size, version, sha256)


def check_content(path: Path, file: DataFile, record: DownloadRecord) -> str:
    """
    The SHA-256 of a file that has arrived.

    Raises:
        [`WrongContent`]: it is not the file that was meant.
    """
    kind, size = Path(file.path).suffix, path.stat().st_size
    with path.open("rb") as content:
        beginning = content.read(100).lstrip()
        content.seek(0)
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if not size:
        raise WrongContent("is empty")
    if beginning.startswith(b"<"):
        raise WrongContent("is a web page")
    if kind in IS_ARCHIVE and not IS_ARCHIVE[kind](path):
        raise WrongContent(f"is no {kind} archive, or only a part of one")
    if not file.rounded and size != file.size:
        raise WrongContent(f"has {size:,} bytes, not {file.size:,}")
    promised = file.sha256 or record.promised(file.path)
    before = record.files.get(file.path)
    if promised is not None and found != promised:
        raise WrongContent(f"has another content (SHA-256 {found[:12]}…, not {promised[:12]}…)")
    if promised is None and before is not None and found != before["sha256"]:
        raise WrongContent(
            f"has another content than on {before['date']} (SHA-256 {found[:12]}…, not {before['sha256'][:12]}…; to "
            f"accept it, remove {file.path} from {record.path})"
        )
    return found

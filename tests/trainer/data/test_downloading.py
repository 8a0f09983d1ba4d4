# SPDX-License-Identifier: Apache-2.0
"""Files from a server that fails in every way: what arrives is the file that was meant, or nothing."""

import hashlib
import io
import json
import re
import shutil
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import FileServer, Served

from trainer.data.downloading import fetching
from trainer.data.downloading.fetching import ATTEMPTS, fetch, open_session
from trainer.data.downloading.record import DownloadRecord
from trainer.data.downloading.sources import DataFile


CONTENT = bytes(range(256)) * 4096  # 1 MB
HALF = len(CONTENT) // 2
OTHER = CONTENT[::-1]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server():
    with FileServer() as server:
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    monkeypatch.setattr(fetching, "BACKOFF", 0)


@pytest.fixture
def get(server, tmp_path):
    """Fetches `data.bin`, in a run of its own, from paths of the server and gives what is in it."""

    def get(*paths: str, size: int = len(CONTENT), name: str = "data.bin", **fields) -> bytes:
        file = DataFile(name, [server.url + path for path in paths or ["/a"]], size, **fields)
        record = DownloadRecord(tmp_path / "downloads.json")
        with open_session() as session:
            fetch(file, tmp_path / name, record, session)
        assert not list(tmp_path.glob("*.part"))
        return (tmp_path / name).read_bytes()

    return get


def ranges(server: FileServer) -> list[str | None]:
    return [wanted for _, wanted, _ in server.requests]


def test_a_file_arrives_with_its_checksum_on_record(server, get, tmp_path):
    server.files["/a"] = Served(CONTENT)
    assert get() == CONTENT
    record = json.loads((tmp_path / "downloads.json").read_text())
    (entry,) = record["files"].values()
    assert record["parts"] == {}
    assert (entry["url"], entry["size"], entry["sha256"]) == (f"{server.url}/a", len(CONTENT), sha256(CONTENT))


def test_a_broken_transfer_goes_on_where_it_ended(server, get):
    server.files["/a"] = Served(CONTENT, answers=[HALF])
    assert get() == CONTENT
    (_, first, _), (_, second, condition) = server.requests
    assert first is None and condition == '"1"'
    start = int(re.fullmatch(r"bytes=(\d+)-", second)[1])
    assert HALF - fetching.BLOCK < start <= HALF


def test_a_connection_that_breaks_again_and_again_brings_the_file_as_long_as_it_brings_something(server, get):
    server.files["/a"] = Served(CONTENT, answers=[2 * fetching.BLOCK] * (ATTEMPTS + 1))
    assert get() == CONTENT
    assert len(server.requests) == ATTEMPTS + 2


def test_a_server_that_sends_ranges_in_pieces_is_asked_for_all_of_them(server, get):
    server.files["/a"] = Served(CONTENT, answers=[HALF], longest=HALF // 4)
    assert get() == CONTENT
    assert 5 <= len(server.requests) <= 7


def test_a_file_of_untold_length_is_complete_when_the_server_says_so(server, get):
    server.files["/a"] = Served(CONTENT, chunked=True, answers=[HALF])
    assert get(rounded=True) == CONTENT
    assert len(server.requests) == 2 and server.requests[1][2] == '"1"'


def test_a_transfer_that_brings_nothing_ends_and_the_next_run_goes_on_from_what_is_kept(server, get, tmp_path):
    served = server.files["/a"] = Served(CONTENT, answers=[HALF], always=0)
    with pytest.raises(
        OSError, match=rf"data\.bin is not fetched: http\S+/a breaks off {ATTEMPTS} times in a row, after"
    ):
        get()
    kept = (tmp_path / "data.bin.part").stat().st_size
    assert 0 < kept <= HALF and not (tmp_path / "data.bin").exists()
    served.always = None
    assert get() == CONTENT
    assert server.requests[-1][1:] == (f"bytes={kept}-", '"1"')


def test_a_server_that_ignores_ranges_sends_the_file_from_its_beginning(server, get):
    server.files["/a"] = Served(CONTENT, ranges=False, answers=[HALF])
    assert get() == CONTENT
    assert len(server.requests) == 2


def test_a_server_that_ignores_ranges_and_always_breaks_off_is_given_up(server, get):
    server.files["/a"] = Served(CONTENT, ranges=False, always=HALF)
    with pytest.raises(OSError, match=f"breaks off {ATTEMPTS} times in a row"):
        get()
    assert len(server.requests) == ATTEMPTS + 1


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_a_file_that_changes_meanwhile_is_not_glued_to_its_old_beginning(server, get, name):
    versions = {
        "ETag": ['"1"', '"2"'],
        "Last-Modified": ["Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"],
    }
    served = server.files["/a"] = Served(CONTENT, headers={name: versions[name][0]}, always=HALF, ranges=False)
    with pytest.raises(OSError, match="breaks off"):
        get()
    server.files["/a"] = Served(OTHER, headers={name: versions[name][1]})
    assert get() == OTHER
    assert server.requests[-1][2] == versions[name][0]
    assert served.content != OTHER


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}], ids=["no version", "a weak one"])
def test_without_a_version_that_the_server_vouches_for_the_file_is_fetched_anew(server, get, headers):
    server.files["/a"] = Served(CONTENT, headers=headers, answers=[HALF])
    assert get() == CONTENT
    assert ranges(server) == [None, None]


def test_with_a_known_checksum_another_address_goes_on_with_the_part(server, get):
    server.files["/a"] = Served(CONTENT, answers=[HALF], always=(404, {}))
    server.files["/b"] = Served(CONTENT, headers={"ETag": '"of b"'})
    assert get("/a", "/b", sha256=sha256(CONTENT)) == CONTENT
    path, wanted, condition = server.requests[-1]
    assert path == "/b" and wanted is not None and condition is None


def test_without_one_another_address_begins_anew(server, get):
    server.files["/a"] = Served(OTHER, answers=[HALF], always=(404, {}))
    server.files["/b"] = Served(CONTENT)
    assert get("/a", "/b") == CONTENT
    assert server.requests[-1] == ("/b", None, None)


def test_a_part_that_turns_out_to_be_of_another_file_is_fetched_anew(server, get):
    server.files["/a"] = Served(OTHER, answers=[HALF], always=(404, {}))
    server.files["/b"] = Served(CONTENT)
    assert get("/a", "/b", sha256=sha256(CONTENT)) == CONTENT
    assert server.requests[-1] == ("/b", None, None)


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(server, get, tmp_path):
    served = server.files["/a"] = Served(CONTENT, always=HALF, ranges=False)
    with pytest.raises(OSError, match="breaks off"):
        get()
    served.content, served.always, served.ranges = CONTENT[: HALF // 2], None, True
    assert get(size=HALF // 2) == CONTENT[: HALF // 2]


def test_what_was_complete_but_not_yet_checked_is_not_asked_for_again(server, get, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    part = {"url": f"{server.url}/a", "size": len(CONTENT), "version": '"1"', "sha256": None}
    (tmp_path / "downloads.json").write_text(json.dumps({"files": {}, "parts": {"data.bin": part}}))
    assert get() == CONTENT
    assert server.requests == []


ZIPPED = io.BytesIO()
with zipfile.ZipFile(ZIPPED, "w") as package:
    package.writestr("a.txt", "a" * 1000)

WRONG = [
    ("404", Served(b"", always=(404, {})), {}, "answers 404 Not Found"),
    ("401", Served(b"", always=(401, {})), {}, "answers 401 Unauthorized, which may want a login or accepted terms"),
    ("403", Served(b"", always=(403, {})), {}, "answers 403 Forbidden, which may want a login"),
    ("busy for good", Served(b"", always=(429, {})), {}, "answers 429 Too Many Requests"),
    ("broken", Served(b"", always=(500, {})), {}, "answers 500 Internal Server Error"),
    ("a redirect in a circle", Served(b"", always=(302, {"Location": "/a"})), {}, "cannot be reached .*redirects"),
    ("a web page", Served(CONTENT, headers={"Content-Type": "text/html; charset=utf-8"}), {}, "answers with a web"),
    ("a hidden one", Served(b"\n <!DOCTYPE html>"), {"size": 17}, "sends a file that is a web page"),
    ("shorter than known", Served(CONTENT[1:]), {}, "offers 1,048,575 bytes, and the file has 1,048,576"),
    ("longer than known", Served(CONTENT + b"a"), {}, "offers 1,048,577 bytes"),
    ("another content", Served(OTHER), {"sha256": sha256(CONTENT)}, r"another content \(SHA-256 \w{12}…, not \w{12}"),
    ("nothing", Served(b""), {"rounded": True}, "sends a file that is empty"),
    ("no zip", Served(CONTENT), {"name": "data.zip"}, r"is no \.zip archive, or only a part of one"),
    ("no tar", Served(CONTENT), {"name": "data.tar"}, r"is no \.tar archive"),
    ("half a zip", Served(ZIPPED.getvalue()[:500]), {"name": "data.zip", "rounded": True}, r"is no \.zip archive"),
    ("no such range", Served(b"", always=(416, {})), {}, f"breaks off {ATTEMPTS} times in a row"),
    ("another range", Served(b"", always=(206, {"Content-Range": "bytes 9-16/1048576"})), {}, "sends another range"),
    ("a part unasked", Served(CONTENT, always=(206, {})), {}, "sends a part of the file without saying which"),
]  # fmt: skip


@pytest.mark.parametrize(("served", "fields", "sentence"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_not_the_file_is_refused_and_not_kept(server, get, tmp_path, served, fields, sentence):
    server.files["/a"] = served
    with pytest.raises(OSError, match=rf"is not fetched: http\S+/a .*{sentence}") as caught:
        get(**fields)
    assert "Run the command again later, or put the file at" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"downloads.json"}


def test_the_next_address_helps_where_the_first_gives_something_else(server, get):
    server.files["/a"], server.files["/b"] = Served(OTHER), Served(CONTENT)
    assert get("/gone", "/a", "/b", sha256=sha256(CONTENT)) == CONTENT
    assert [path for path, *_ in server.requests] == ["/gone", "/a", "/b"]


def test_every_address_that_fails_is_named_with_its_reason(server, get):
    server.files["/a"] = Served(OTHER)
    with pytest.raises(OSError, match="/gone answers 404 Not Found; http.*/a sends a file that has another content"):
        get("/gone", "/a", sha256=sha256(CONTENT))


def test_a_server_that_is_not_there_is_said(get, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match=r"/a cannot be reached \(\[Errno \d+\] Connection refused\)"):
        get()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_after_the_time_that_it_names(server, get, status):
    server.files["/a"] = Served(CONTENT, answers=[(status, {"Retry-After": "1"})])
    start = time.monotonic()
    assert get() == CONTENT
    assert 1 <= time.monotonic() - start < 3


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_that_names_no_time_is_asked_again_too(server, get, status):
    server.files["/a"] = Served(CONTENT, answers=[(status, {})] * ATTEMPTS)
    assert get() == CONTENT


def test_no_server_makes_the_user_wait_for_hours(server, get, monkeypatch):
    monkeypatch.setattr(fetching, "LONGEST_WAIT", 0)
    server.files["/a"] = Served(CONTENT, always=(503, {"Retry-After": "7200"}))
    with pytest.raises(OSError, match=r"answers 503 Service Unavailable \(Retry-After: 7200\)"):
        get()


@pytest.mark.parametrize("content", [CONTENT, OTHER], ids=["the file", "another"])
def test_the_checksum_that_the_hub_publishes_holds(server, get, content):
    headers = {"Location": "/cdn", "X-Linked-ETag": f'"{sha256(CONTENT)}"'}
    server.files["/a"] = Served(b"", always=(302, headers))
    server.files["/cdn"] = Served(content)
    if content == CONTENT:
        assert get() == CONTENT
    else:
        with pytest.raises(OSError, match="has another content"):
            get()


def test_what_the_hub_has_promised_holds_for_another_address_too(server, get):
    headers = {"Location": "/cdn", "X-Linked-ETag": f'"{sha256(CONTENT)}"'}
    server.files["/a"] = Served(b"", always=(302, headers))
    server.files["/cdn"] = Served(CONTENT, answers=[HALF], always=(404, {}))
    server.files["/b"] = Served(OTHER)
    with pytest.raises(OSError, match="/b sends a file that has another content"):
        get("/a", "/b")
    server.files["/b"] = Served(CONTENT)
    assert get("/a", "/b") == CONTENT


def test_what_was_fetched_first_is_what_later_runs_expect(server, get, tmp_path):
    server.files["/a"] = Served(CONTENT)
    get()
    (tmp_path / "data.bin").unlink()
    server.files["/a"] = Served(OTHER, headers={"ETag": '"2"'})
    with pytest.raises(
        OSError, match=r"another content than on \d{4}-\d\d-\d\d .*remove data\.bin from \S+downloads\.json"
    ):
        get()
    server.files["/a"] = Served(CONTENT)
    assert get() == CONTENT


def test_a_file_that_does_not_fit_is_refused_before_any_of_it_is_written(server, get, tmp_path, monkeypatch):
    server.files["/a"] = Served(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"data\.bin\.part needs 1,048,576 more bytes and 1,000 are free: make room"):
        get()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_is_said_and_what_arrived_is_kept(server, get, tmp_path):
    server.files["/a"] = Served(CONTENT)
    (tmp_path / "data.bin.part").symlink_to("/dev/full")
    with pytest.raises(
        OSError, match=r"part cannot be written \(No space left on device\): make room .* goes on from"
    ):
        get()
    assert (tmp_path / "data.bin.part").is_symlink()

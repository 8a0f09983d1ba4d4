# SPDX-License-Identifier: Apache-2.0
"""What download_data.py refuses: wrong options, places and files of addresses, before anything is fetched or made."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from paths import SCRIPTS
from refusals import assert_refused


SCRIPT = SCRIPTS / "download_data.py"
URL = "http://127.0.0.1:9/a.zip"  # nobody listens there, and nothing may ask
FILE = {"path": "a/a.zip", "urls": [URL], "size": 1000, "folder": "a/images"}
SOURCES = {
    "one": {
        "purpose": "training",
        "what": "photos",
        "licence": "free",
        "terms": "https://example.org",
        "files": [FILE],
    }
}
GONE = object()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "good.yaml").write_text(yaml.safe_dump(SOURCES))
    (folder / "list.yaml").write_text("- one\n- two\n")
    (folder / "empty.yaml").write_text("")
    (folder / "broken.yaml").write_text("one: {files: [")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "tagged.yaml").write_text("one: !!python/object/apply:os.system ['true']\n")
    (folder / "a file").write_text("")
    (folder / "recorded").mkdir()
    (folder / "recorded" / "downloads.json").write_text("[]")
    (folder / "cut").mkdir()
    (folder / "cut" / "downloads.json").write_text('{"files": {')
    return folder


OPTIONS = [
    (["--only", "imagenet"], "--only names 'imagenet': choose from training, evaluation, one"),
    (["--only", "one,two"], "--only names 'two': choose from"),
    (["--only", "one,"], "--only names '': choose from"),
    (["--only", ""], "--only names '': choose from"),
    (["--only", "One"], "--only names 'One': choose from"),
    (["--only", "one two"], "--only names 'one two': choose from"),
    (["--only"], "argument --only: expected one argument"),
    (["--list", "--only", "imagenet"], "--only names 'imagenet'"),
    (["one"], "unrecognized arguments: one"),
    (["--keep_archives", "yes"], "unrecognized arguments: yes"),
    (["--output_dir"], "argument --output_dir: expected one argument"),
    (["--output_dir", "a file"], "--output_dir a file cannot be written .File exists.: name another place"),
    (
        ["--output_dir", "a file/data"],
        "--output_dir a file/data cannot be written .Not a directory.: name another place",
    ),
    (
        ["--output_dir", "recorded"],
        r"downloads\.json is no record of downloads: remove it or name another --output_dir",
    ),
    (["--output_dir", "cut"], r"downloads\.json is damaged, it is not JSON"),
    (["--sources", "gone.yaml"], r"--sources gone\.yaml cannot be read: No such file or directory"),
    (["--sources", "recorded"], "--sources recorded cannot be read: Is a directory"),
    (["--sources", "list.yaml"], r"--sources list\.yaml must be a mapping of names to data sets"),
    (["--sources", "empty.yaml"], r"--sources empty\.yaml must be a mapping"),
    (["--sources", "broken.yaml"], r"--sources broken\.yaml is no YAML: .*line 1"),
    (["--sources", "binary.yaml"], r"--sources binary\.yaml cannot be read: 'utf-8' codec"),
    (["--sources", "tagged.yaml"], r"--sources tagged\.yaml is no YAML: could not determine a constructor"),
]


@pytest.mark.parametrize(("arguments", "sentence"), OPTIONS, ids=[" ".join(row) for row, _ in OPTIONS])
def test_a_wrong_option_is_refused(folder, arguments, sentence):
    assert_refused(SCRIPT, ["--sources", "good.yaml", *arguments], sentence, folder)


DATA_SETS = [
    ("purpose", GONE, "'purpose'"),
    ("purpose", "fun", "`purpose` is 'fun': give training or evaluation"),
    ("what", GONE, "'what'"),
    ("what", 3, "`what` is 3: give text"),
    ("licence", ["MIT"], r"`licence` is \['MIT'\]: give text"),
    ("terms", GONE, "'terms'"),
    ("files", GONE, "there is nothing to fetch: give `files`, or `by_hand`"),
    ("files", [], "there is nothing to fetch"),
    ("files", "a.zip", "`files` is 'a.zip': give a list"),
    ("files", ["a.zip"], "'a.zip' must be a mapping of fields"),
    ("links", ["a"], r"`links` is \['a'\]: give a mapping"),
    ("links", {"../b": "a/images"}, r"`links` is '\.\./b': give a relative path without `\.\.`"),
    ("links", {"b": "/etc"}, "`links` is '/etc': give a relative path"),
    ("by_hand", True, "`by_hand` is True: give text"),
    ("license", "MIT", "`license` is unknown: choose from name, purpose, what, licence"),
]


@pytest.mark.parametrize(
    ("field", "value", "sentence"), DATA_SETS, ids=[f"{row[0]}-{i}" for i, row in enumerate(DATA_SETS)]
)
def test_a_wrong_data_set_is_refused(tmp_path, field, value, sentence):
    refuse(tmp_path, "one", field, value, sentence, of_file=False)


FILES = [
    ("path", GONE, "'path'"),
    ("path", "../a.zip", r"`path` is '\.\./a\.zip': give a relative path without `\.\.`"),
    ("path", "a/../../a.zip", "`path` is .* without"),
    ("path", "/tmp/a.zip", "`path` is '/tmp/a.zip': give a relative path"),
    ("path", "", "`path` is '': give a relative path"),
    ("path", "a/a.rar", r"`folder` is for archives, and a/a\.rar does not end in \.zip or \.tar"),
    ("urls", GONE, "'urls'"),
    ("urls", [], r"`urls` is \[\]: give addresses that begin with http"),
    ("urls", URL, "`urls` is 'http.*': give a list"),
    ("urls", ["ftp://example.org/a.zip"], "`urls` is .*: give addresses that begin with http:// or https://"),
    ("urls", ["file:///etc/passwd"], "`urls` is .*: give addresses"),
    ("urls", [URL, "https://example.org"], "`urls` is .*: give addresses"),
    ("size", GONE, "'size'"),
    ("size", 0, "`size` is 0: give a whole number of at least 1"),
    ("size", -1, "`size` is -1: give a whole number of at least 1"),
    ("size", "1 GB", "`size` is '1 GB': give a whole number"),
    ("size", 1.5, "`size` is 1.5: give a whole number"),
    ("rounded", "yes", "`rounded` is 'yes': give true or false"),
    ("sha256", "abc", "`sha256` is 'abc': give 64 hexadecimal digits"),
    ("sha256", "A" * 64, "`sha256` is .*: give 64 hexadecimal digits in small letters"),
    ("sha256", 123, "`sha256` is 123: give text"),
    ("folder", "../images", r"`folder` is '\.\./images': give a relative path"),
    ("folder", ".", r"`folder` is '\.': give a relative path"),
    ("unpacked", 0, "`unpacked` is 0: give a whole number of at least 1"),
    ("url", URL, "`url` is unknown: choose from path, urls, size"),
    ("md5", "a" * 32, "`md5` is unknown"),
]


@pytest.mark.parametrize(("field", "value", "sentence"), FILES, ids=[f"{row[0]}-{i}" for i, row in enumerate(FILES)])
def test_a_wrong_file_is_refused(tmp_path, field, value, sentence):
    refuse(tmp_path, "one", field, value, sentence, of_file=True)


@pytest.mark.parametrize("name", ["A set", "a,b", "training!", 3])
def test_a_name_that_only_could_not_hold_is_refused(tmp_path, name):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({name: SOURCES["one"]}))
    assert_refused(SCRIPT, ["--sources", "s.yaml"], rf"s\.yaml, {name}: .*(small letters|give text)", tmp_path)


def refuse(folder: Path, name: str, field: str, value: object, sentence: str, of_file: bool) -> None:
    """Asserts that the sources with one other field are refused, by the name of their data set."""
    sources = copy.deepcopy(SOURCES)
    fields = sources[name]["files"][0] if of_file else sources[name]
    fields[field] = value
    if value is GONE:
        del fields[field]
    (folder / "s.yaml").write_text(yaml.safe_dump(sources))
    assert_refused(SCRIPT, ["--sources", "s.yaml", "--list"], rf"^--sources s\.yaml, {name}: .*{sentence}", folder)


def test_a_full_disk_is_refused(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1999))
    sentence = "--output_dir playground/data has 0.00 GB free, and the download needs 0.00 GB: make room"
    assert_refused(SCRIPT, ["--sources", "good.yaml"], sentence, folder)

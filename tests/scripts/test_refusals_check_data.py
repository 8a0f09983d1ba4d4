# SPDX-License-Identifier: Apache-2.0
"""What check_data.py refuses: wrong options and files, each in one sentence and before anything is written."""

import gzip
import json
import os
import tarfile
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from paths import SCRIPTS
from refusals import assert_refused
from tiny_parts import make_image, make_tokenizer

from trainer import load_training_data


SCRIPT = SCRIPTS / "check_data.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with files of every wrong kind; what datasets prepares goes elsewhere."""
    folder = tmp_path_factory.mktemp("work")
    row = {"image": "a.png", "caption": "a dog"}
    texts = {
        "good.json": json.dumps([row]),
        "object.json": json.dumps(row),
        "cut.json": json.dumps([row])[:-1] + ', {"id"',
        "more.json": "[] []",
        "empty.json": "[]",
        "blank.jsonl": "\n\n",
        "nothing.json": "",
        "deep.json": "[" + '{"a":' * 100_000,
        "commas.json": f"[{json.dumps(row)} {{}}]",
        "rows.csv": "image,caption",
        "rows": "[]",
        "rows.txt": "a dog",
        "rows.parquet": "no parquet",
        "rows.tar": "no tar file" * 100,
        "rows.yaml": "a: 1",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00[")
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    (folder / "packed.json.gz").write_bytes(gzip.compress(b"[]"))
    (folder / "packed.tar").write_bytes(gzip.compress(bytes(10_000)))
    member = tarfile.TarInfo("7.png")
    member.size = 2**30
    (folder / "claims.tar").write_bytes(member.tobuf() + bytes(10_000))
    os.mkfifo(folder / "pipe.json")
    os.mkfifo(folder / "pipe.jsonl")
    os.mkfifo(folder / "pipe.tar")
    (folder / "folder.json").mkdir()
    (folder / "photos").mkdir()
    make_image().save(folder / "photos" / "a.png")
    make_image().save(folder / "a.png")
    DatasetDict(dev=Dataset.from_list([row])).save_to_disk(folder / "splits")
    Dataset.from_list([row]).save_to_disk(folder / "broken")
    (folder / "broken" / "state.json").write_text("{}")
    make_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(autouse=True)
def nothing_is_prepared_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


FILES = [
    ("gone.json", r"gone\.json cannot be read: there is no such file"),
    ("gone.jsonl", r"gone\.jsonl cannot be read: there is no such file"),
    ("gone.tar", r"gone\.tar cannot be read: there is no such file"),
    ("gone*.tar", r"gone\*\.tar cannot be read: there is no such file"),
    ("gone.parquet", r"gone\.parquet cannot be read: there is no such file"),
    ("gone/*.parquet", r"gone/\*\.parquet cannot be read: there is no such file"),
    ("object.json", r"object\.json is no json list of samples: it must begin with `\[`"),
    ("cut.json", r"cut\.json cannot be read as json"),
    ("more.json", r"more\.json is no json list of samples: more follows"),
    ("commas.json", r"commas\.json is no json list of samples: a `,` or the final `\]` is missing"),
    ("empty.json", r"empty\.json has no samples"),
    ("blank.jsonl", r"blank\.jsonl has no samples"),
    ("nothing.json", r"nothing\.json is no json list of samples"),
    ("deep.json", r"deep\.json cannot be read as json: maximum recursion depth"),
    ("binary.json", r"binary\.json cannot be read: 'utf-8' codec"),
    ("binary.jsonl", r"binary\.jsonl cannot be read: 'utf-8' codec"),
    ("packed.json.gz", r"packed\.json\.gz is compressed: unpack it"),
    ("gone.zip", r"gone\.zip is compressed: unpack it"),
    ("packed.tar", r"packed\.tar cannot be read as an uncompressed tar file"),
    ("rows.tar", r"rows\.tar cannot be read as an uncompressed tar file"),
    ("claims.tar", r"claims\.tar, sample 7: 7\.png has more than 536,870,912 bytes"),
    ("rows.parquet", r"rows\.parquet.* cannot be read: Parquet magic bytes not found"),
    ("rows.csv", r"rows\.csv is of no form that is read: make a \.json"),
    ("gone.CSV", r"gone\.CSV is of no form that is read"),
    ("rows.txt", r"rows\.txt is of no form that is read"),
    ("rows.yaml", r"rows\.yaml is of no form that is read"),
    ("rows", r"rows is of no form that is read"),
    ("a.png", r"a\.png is of no form that is read"),
    ("pipe.json", r"pipe\.json cannot be read: it is no file"),
    ("pipe.jsonl", r"pipe\.jsonl cannot be read: it is no file"),
    ("pipe.tar", r"pipe\.tar cannot be read: it is no file"),
    ("folder.json", r"folder\.json cannot be read: it is no file"),
    ("photos", r"photos is no folder of `Dataset\.save_to_disk`: name its files"),
    ("broken", r"broken is no folder of `Dataset\.save_to_disk`"),
    ("splits", r"splits has no split train: name one of \['dev'\] as `dataset_split`"),
    ("./gone", r"\./gone is no file, no folder and no Hub id"),
    ("/gone/rows", r"/gone/rows is no file, no folder and no Hub id"),
    ("~/gone", r"~/gone is no file, no folder and no Hub id"),
    ("a/b/c", r"a/b/c is no file, no folder and no Hub id"),
    ("two words", r"two words is no file, no folder and no Hub id"),
    ("", r"is no file, no folder and no Hub id|is no folder"),
]


@pytest.mark.parametrize(("name", "sentence"), FILES, ids=[name for name, _ in FILES])
def test_a_file_that_cannot_be_read_is_refused(folder, name, sentence):
    assert_refused(SCRIPT, [name], sentence, folder)


@pytest.mark.parametrize(("name", "sentence"), FILES, ids=[name for name, _ in FILES])
def test_training_refuses_it_too(folder, name, sentence, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_training_data(name)
    assert len(str(caught.value).splitlines()) == 1


OPTIONS = [
    ([], "the following arguments are required: dataset"),
    (["good.json", "more"], "unrecognized arguments: more"),
    (["good.json", "--image_folder", "nowhere"], "--image_folder nowhere is no folder"),
    (["good.json", "--image_folder", "a.png"], r"--image_folder a\.png is no folder"),
    (["good.json", "--dataset_split", "test"], r"`dataset_split` test says nothing of good\.json"),
    (["splits", "--dataset_split", "test"], r"splits has no split test: name one of \['dev'\]"),
    (["good.json", "--max_length", "9"], "--max_length needs --processor"),
    (["good.json", "--max_length", "many"], "argument --max_length: invalid int value: 'many'"),
    (["good.json", "--processor", "tokenizer", "--max_length", "0"], "--max_length is 0: give at least 1"),
    (["good.json", "--processor", "tokenizer", "--max_length", "-5"], "--max_length is -5: give at least 1"),
    (["good.json", "--processor", "nowhere/x/y"], "--processor nowhere/x/y must be a Hub id or a folder"),
    (["good.json", "--processor", "tokenizer"], "not a LangBridgeProcessor"),
    (["good.json", "--processor", "photos"], "--processor photos must be a Hub id or a folder"),
    (["good.json", "--clean_output", "good.json"], r"--clean_output good\.json exists"),
    (["good.json", "--clean_output", "photos"], "--clean_output photos exists"),
    (
        ["good.json", "--clean_output", "clean.jsonl"],
        r"--clean_output clean\.jsonl must end in \.json, for",
    ),
    (["good.json", "--clean_output", "clean"], r"--clean_output clean must end in \.json"),
    (["rows.tar", "--clean_output", "clean.json"], r"--clean_output clean\.json must end in \.tar"),
    (["splits", "--clean_output", "clean.json"], r"--clean_output clean\.json must end in \.parquet or be a folder"),
    (["good.json", "--clean_output"], "argument --clean_output: expected one argument"),
    (["good.json", "--allow_image_url", "yes"], "unrecognized arguments: yes"),
]


@pytest.mark.parametrize(("arguments", "sentence"), OPTIONS, ids=[" ".join(row) for row, _ in OPTIONS])
def test_a_wrong_option_is_refused(folder, arguments, sentence):
    assert_refused(SCRIPT, arguments, sentence, folder)

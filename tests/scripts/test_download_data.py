# SPDX-License-Identifier: Apache-2.0
"""download_data.py from a server on this machine: the layout, what a second run does, interruptions, full disks."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
import yaml
from file_server import FileServer, Served
from in_process import run_script_here
from paths import SCRIPTS

from modeling_langbridge.utils.outputs import locked
from trainer.data.downloading.sources import read_sources


SCRIPT = SCRIPTS / "download_data.py"
ROWS = b'[{"id": "1", "image": "coco/train2017/1.jpg"}]'
PHOTO = bytes(range(256)) * 2000


def zipped(files: dict[str, bytes]) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as package:
        for name, content in files.items():
            package.writestr(name, content)
    return output.getvalue()


ARCHIVE = zipped({"train2017/1.jpg": PHOTO})


@pytest.fixture
def server():
    with FileServer() as server:
        server.files = {"/rows.json": Served(ROWS), "/train2017.zip": Served(ARCHIVE)}
        yield server
        server.shutdown()


@pytest.fixture
def sources(server, tmp_path) -> Path:
    """Two data sets for training, and one for evaluation that has a file of theirs and a link."""
    about = {"what": "photos", "licence": "free", "terms": "https://example.org/terms"}
    photos = {"path": "coco/train2017.zip", "urls": [f"{server.url}/train2017.zip"], "folder": "coco/train2017"}
    photos["size"] = len(ARCHIVE)
    rows = {"path": "rows.json", "urls": [f"{server.url}/rows.json"], "size": len(ROWS)}
    datasets = {
        "rows": {"purpose": "training", "files": [rows], **about},
        "coco": {"purpose": "training", "files": [photos], **about},
        "pope": {"purpose": "evaluation", "files": [photos], "links": {"eval/pope/val": "coco/train2017"}, **about},
        "covers": {"purpose": "evaluation", "files": [], "by_hand": "fetch https://example.org/covers.", **about},
    }
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump(datasets, sort_keys=False))
    return path


@pytest.fixture
def run(sources, tmp_path):
    def run(*options: object) -> CompletedProcess:
        return run_script_here(SCRIPT, "--sources", sources, "--output_dir", "data", *options, cwd=tmp_path)

    return run


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_everything_arrives_in_its_place(run, server, tmp_path):
    result = run()
    assert result.returncode == 0, result.stderr
    data = tmp_path / "data"
    assert files_of(data) == {"downloads.json", "rows.json", "coco/train2017/1.jpg"}
    assert (data / "coco/train2017/1.jpg").read_bytes() == PHOTO
    assert os.readlink(data / "eval/pope/val") == "../../coco/train2017"
    assert (data / "eval/pope/val/1.jpg").read_bytes() == PHOTO
    assert len(server.requests) == 2  # the archive of two data sets once
    assert set(json.loads((data / "downloads.json").read_text())["files"]) == {"rows.json", "coco/train2017.zip"}
    assert result.stdout.startswith("2 of 2 files are missing; they need 0.00 GB of ")
    assert "rows.json is fetched: 46 bytes, SHA-256 " in result.stdout
    assert "coco/train2017 has the 1 files of train2017.zip." in result.stdout
    assert result.stdout.endswith("covers, by hand: fetch https://example.org/covers.\n")


def test_a_second_run_fetches_nothing(run, server, tmp_path):
    run()
    before = (tmp_path / "data" / "downloads.json").read_text()
    result = run()
    assert result.returncode == 0
    assert len(server.requests) == 2
    assert "0 of 2 files are missing" in result.stdout and result.stdout.count("is there already") == 2
    assert (tmp_path / "data" / "downloads.json").read_text() == before


@pytest.mark.parametrize(
    ("only", "paths"),
    [
        ("rows", ["/rows.json"]),
        ("coco, rows", ["/rows.json", "/train2017.zip"]),
        ("training", ["/rows.json", "/train2017.zip"]),
        ("evaluation", ["/train2017.zip"]),
        ("covers", []),
    ],
)
def test_only_what_is_named_is_fetched(run, server, only, paths):
    assert run("--only", only).returncode == 0
    assert [path for path, *_ in server.requests] == paths


def test_archives_are_kept_when_asked_for(run, tmp_path):
    run("--only", "coco", "--keep_archives")
    assert (tmp_path / "data/coco/train2017.zip").read_bytes() == ARCHIVE
    assert (tmp_path / "data/coco/train2017/1.jpg").exists()


def test_the_list_shows_what_there_is_and_fetches_nothing(run, server, tmp_path):
    lines = run("--list", "--only", "pope,covers").stdout.splitlines()
    assert lines[1].split() == ["pope", "evaluation", "0.00", "coco/train2017,", "eval/pope/val"]
    assert lines[3] == "    free: https://example.org/terms"
    assert lines[-1] == "    by hand: fetch https://example.org/covers."
    assert not any(line.startswith(("rows", "coco")) for line in lines)
    assert server.requests == [] and not (tmp_path / "data").exists()


def test_a_folder_that_is_there_is_left_as_it_is(run, server, tmp_path):
    mine = tmp_path / "data/coco/train2017"
    mine.mkdir(parents=True)
    (mine / "mine.jpg").write_bytes(b"mine")
    assert "train2017 is there already" in run("--only", "coco").stdout
    assert files_of(mine) == {"mine.jpg"} and server.requests == []


def test_an_empty_folder_is_filled(run, tmp_path):
    (tmp_path / "data/coco/train2017").mkdir(parents=True)
    assert run("--only", "coco").returncode == 0
    assert files_of(tmp_path / "data/coco") == {"train2017/1.jpg"}


def test_an_archive_that_is_put_there_by_hand_is_checked_and_unpacked(run, server, tmp_path):
    (tmp_path / "data/coco").mkdir(parents=True)
    (tmp_path / "data/coco/train2017.zip").write_bytes(ARCHIVE)
    assert run("--only", "coco").returncode == 0
    assert (tmp_path / "data/coco/train2017/1.jpg").read_bytes() == PHOTO and server.requests == []
    (entry,) = json.loads((tmp_path / "data/downloads.json").read_text())["files"].values()
    assert entry["url"] is None and entry["sha256"] == hashlib.sha256(ARCHIVE).hexdigest()


def test_a_file_that_has_changed_on_the_disk_is_refused(run, tmp_path):
    run("--only", "rows")
    path = tmp_path / "data/rows.json"
    path.write_bytes(ROWS.replace(b"1.jpg", b"2.jpg"))
    result = run("--only", "rows")
    assert result.returncode == 1
    sentence = r"data/rows.json has another content than on "
    assert sentence in result.stderr and "remove it, and the same command fetches it again" in result.stderr
    path.unlink()
    assert run("--only", "rows").returncode == 0
    assert path.read_bytes() == ROWS


def test_an_archive_that_cannot_be_unpacked_is_kept_and_leaves_no_folder(run, server, tmp_path):
    unsafe = zipped({"../escaped.jpg": PHOTO})
    server.files["/train2017.zip"] = Served(unsafe + bytes(len(ARCHIVE) - len(unsafe)))
    result = run("--only", "coco")
    assert result.returncode == 1
    assert "is not safe to unpack: it names '../escaped.jpg'" in result.stderr
    assert not (tmp_path / "data/coco/train2017").exists() and not list(tmp_path.rglob("escaped.jpg"))


def test_a_run_that_is_stopped_keeps_what_has_arrived_and_the_next_goes_on(run, server, tmp_path):
    part = tmp_path / "data/coco/train2017.zip.part"

    def terminate() -> None:
        while not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    server.files["/train2017.zip"].answers = [terminate]
    stopped = run("--only", "coco")
    assert stopped.returncode == 143
    assert stopped.stderr.endswith("\nInterrupted: what has arrived is kept, the same command goes on from there.\n")
    kept = part.stat().st_size
    assert 0 < kept < len(ARCHIVE)
    assert run("--only", "coco").returncode == 0
    assert server.requests[-1][1] == f"bytes={kept}-"
    assert (tmp_path / "data/coco/train2017/1.jpg").read_bytes() == PHOTO


def test_a_full_disk_is_refused_before_anything_is_asked_for(run, server, tmp_path, monkeypatch):
    need = len(ROWS) + 2 * len(ARCHIVE)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need - 1))
    result = run()
    assert result.returncode == 1
    assert "--output_dir data has 0.00 GB free, and the download needs 0.00 GB: make room" in result.stderr
    assert server.requests == [] and not (tmp_path / "data").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need))
    assert run().returncode == 0


@pytest.mark.parametrize(("options", "archives"), [([], 1), (["--keep_archives"], 2)], ids=["removed", "kept"])
def test_kept_archives_and_begun_parts_count_in_the_space(
    run, server, sources, tmp_path, monkeypatch, options, archives
):
    datasets = yaml.safe_load(sources.read_text())
    (first,) = datasets["coco"]["files"]
    second = {**first, "path": "vg/images.zip", "folder": "vg/images", "unpacked": len(ARCHIVE) + 10}
    datasets["coco"]["files"].append(second)
    sources.write_text(yaml.safe_dump(datasets, sort_keys=False))
    part = tmp_path / "data/vg/images.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"12345")
    need = (2 + archives) * len(ARCHIVE) + 10 - 5
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need - 1))
    assert "make room" in run("--only", "coco", *options).stderr
    assert server.requests == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=need))
    assert run("--only", "coco", *options).returncode == 0


def test_two_runs_do_not_write_to_one_folder(run, server, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with locked(data, data / ".downloads.lock"):
        result = run()
    assert result.returncode == 1 and "Another run is writing to data" in result.stderr
    assert server.requests == []


def test_the_originals_command_has_the_same_options(sources):
    command = ["sh", SCRIPTS / "download_data.sh", "--sources", sources, "--list", "--only", "rows"]
    environment = {**os.environ, "PYTHON": sys.executable}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "rows.json" in result.stdout


def test_the_papers_data_are_all_there():
    datasets = {dataset.name: dataset for dataset in read_sources(SCRIPTS / "data_sources.yaml")}
    training = {name for name, dataset in datasets.items() if dataset.purpose == "training"}
    assert training == {"pretrain", "instruct", "coco", "gqa", "ocr_vqa", "textvqa", "vg"}
    benchmarks = {"eval_gqa", "eval_textvqa", "mme", "mmbench", "mm_vet", "pope", "scienceqa", "eval_questions"}
    assert datasets.keys() - training == benchmarks
    places = {file.folder or file.path for name in training for file in datasets[name].files}
    assert places == {
        "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
        "LLaVA-Pretrain/images",
        "llava_v1_5_mix665k.json",
        "coco/train2017",
        "gqa/images",
        "ocr_vqa/images",
        "textvqa/train_images",
        "vg/VG_100K",
        "vg/VG_100K_2",
    }
    every = {place for dataset in datasets.values() for file in dataset.files for place in [file.folder or file.path]}
    assert {target for dataset in datasets.values() for target in dataset.links.values()} <= every

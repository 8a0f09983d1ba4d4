# SPDX-License-Identifier: Apache-2.0
"""Loading runs no code but the model's own files and reads no pickle; publishing tells nothing about this machine."""

import getpass
import json
import pickle
import shutil
from pathlib import Path

import pytest
from hub_clients import CARD, TOKEN
from hub_server import Repository
from hub_traps import make_traps
from paths import SCRIPTS

from hub_cards.local_paths import find_local


pytest_plugins = "hub_fixtures"

SCRIPT = SCRIPTS / "push_to_hub.py"

LOADS = """
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
AutoModelForImageTextToText.from_pretrained("user/planted", trust_remote_code=True)
AutoProcessor.from_pretrained("user/planted", trust_remote_code=True)
pipeline("image-text-to-text", model="user/planted", trust_remote_code=True)
print("loaded")
"""


def test_the_traps_of_these_tests_do_spring(tmp_path):
    traps = make_traps(tmp_path / "sprung")
    exec(traps["extra.py"])
    assert (tmp_path / "sprung").exists()
    (tmp_path / "sprung").unlink()
    pickle.loads(traps["optimizer.pt"])
    assert (tmp_path / "sprung").exists()


def test_code_and_pickles_planted_in_a_repository_do_nothing(client, hub, published, tmp_path):
    repository = hub.repositories["user/planted"] = Repository("user")
    repository.commit({**hub.repositories["user/model"].files, **make_traps(tmp_path / "sprung")})
    assert client.load(LOADS) == "loaded\n"
    assert not (tmp_path / "sprung").exists()
    assert not [request for request in hub.requests if request.endswith(("extra.py", "training_args.bin", ".pt"))]


def test_code_and_pickles_beside_a_model_are_neither_run_nor_published(hub, published, folders):
    assert (folders / "model" / "extra.py").exists() and not (folders / "sprung").exists()
    for commit in hub.repositories["user/model"].commits.values():
        assert not commit.keys() & make_traps(folders / "sprung").keys()


def test_nothing_of_this_machine_is_published(hub, published, folders):
    telling = {str(folders.parent), str(Path.home()), TOKEN, TOKEN[3:]}
    if getpass.getuser() != "root":  # which is a word, too
        telling.add(getpass.getuser())
    for name, repository in hub.repositories.items():
        if name in {"user/inherited", *(f"user/{kind}" for kind in published)}:
            for files in repository.commits.values():
                for path, content in files.items():
                    assert not [word for word in telling if word.encode() in content], (name, path)


SETTINGS = {
    "a path": ("config.json", ["text_config", "_name_or_path"], "/home/someone/qwen2"),
    "a home": ("config.json", ["vision_config", "_name_or_path"], "~/clip"),
    "a folder that looks like a Hub id": ("config.json", ["text_config", "_name_or_path"], "runs/stage1"),
    "a path on Windows": ("processor_config.json", ["image_processor", "cache"], "C:\\Users\\someone"),
    "a path inside a command": ("generation_config.json", ["command"], "train.py --train_data=/data/someone/photos"),
    "a token": ("generation_config.json", ["command"], f"train.py --hub_token {TOKEN}"),
}


@pytest.mark.parametrize(("file", "place", "value"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_tell_about_this_machine_are_refused(
    file, place, value, folders, run_script, tmp_path, monkeypatch
):
    folder = shutil.copytree(folders / "model", tmp_path / "folder")
    (tmp_path / "runs" / "stage1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    settings = json.loads((folder / file).read_text())
    inner = settings
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / file).write_text(json.dumps(settings))
    sentence = run_script("--folder", folder, "--repo_id", "user/x", *CARD)
    assert file in sentence and f"`{'.'.join(place)}`" in sentence and "is local to this machine" in sentence
    assert TOKEN not in sentence


def test_a_card_that_would_tell_about_this_machine_is_refused(folders, run_script, tmp_path):
    result = dict.fromkeys(("metric", "value", "dataset", "split", "date", "machine"), "x")
    results = [{**result, "command": "python scripts/retrieve.py --photos /home/someone/photos"}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    options = ["--folder", folders / "model", "--repo_id", "user/x", *CARD, "--results", tmp_path / "results.json"]
    assert "The card would say '/home/someone/photos'" in run_script(*options)


def test_a_template_that_tells_about_this_machine_is_refused(folders, run_script, tmp_path):
    folder = shutil.copytree(folders / "model", tmp_path / "folder")
    (folder / "chat_template.jinja").write_text("{% include '/home/someone/template' %}")
    assert "chat_template.jinja holds '/home/someone/template'" in run_script(
        "--folder", folder, "--repo_id", "user/x", *CARD
    )


PATHS = [
    "/home/alice",
    "path:/home/a/b",
    "me@host:/home/a/b",
    "{/home/a/b}",
    "x|/home/a/b",
    "$HOME/a",
    "~alice/a",
    "../alice/a",
]


@pytest.mark.parametrize("text", PATHS)
def test_a_path_is_found_however_it_is_written(text):
    assert find_local(text) is not None


NO_PATHS = ["openai/clip-vit-base-patch32", "https://huggingface.co/user", "/think", "and/or", "2026/11/25", "a / b"]


@pytest.mark.parametrize("text", NO_PATHS)
def test_what_is_no_path_passes(text):
    assert find_local(text) is None

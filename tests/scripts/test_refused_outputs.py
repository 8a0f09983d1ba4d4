# SPDX-License-Identifier: Apache-2.0
"""Places that cannot be written to, or where something is: refused by every script that writes, before the work."""

import sys

import pytest
from filelock import FileLock
from in_process import run_script_here
from paths import SCRIPTS
from refusals import assert_refused
from tiny_parts import make_image
from tiny_training import save_langbridge

from hub_cards.words_picture import draw_words_picture
from modeling_langbridge import SharedVocabulary


# What each script needs beside its output is named but not there: it is not read before the output is looked at.
FOLDER_WRITERS = {
    "train.py": ["--model", "absent", "--dataset", "absent.json", "--use_cpu", "--bf16", "false"],
    "ground.py": ["--vision_tower", "absent", "--dataset", "absent.json", "--use_cpu"],
    "transfer.py": ["--model", "absent", "--language_model", "absent"],
    "lift.py": ["--model", "absent"],
    "export.py": ["--model", "absent"],
    "merge_lora.py": ["--model", "absent"],
    "convert_langbridge_weights_to_hf.py": ["--model", "absent", "--vocabulary", "absent.json"],
    "demo_scenes.py": ["--quick"],
    "demo.py": ["--quick"],
}
FILE_WRITERS = {
    "retrieve.py": (["--model", "absent", "--dataset", "absent.json"], "--output"),
    "arithmetic.py": (["--model", "absent", "--plus", "absent.png"], "--output"),
    "create_vocab_subset.py": (["--language_model", "llama3", "--vocab_size", "9"], "--output"),
    "check_data.py": (["samples.json"], "--clean_output"),
}
FOLDERS = {
    "full": "full (exists and|is) not( an)? empty|full exists and is not an empty|full is no output of this script",
    "full.json": "full.json is a file: name a folder|full.json exists and is not an empty|full.json is no output",
    "full.json/below": r"full.json/below.* cannot be written \(Not a directory\): name another",
    "/proc/absent/below": r"/proc/absent.* cannot be written \(No such file or directory\): name another",
}
FILES = {
    "full.json": "full.json exists: remove it or name another one",
    "full": "full exists: remove it or name another one",
    "full.json/below.json": r"full.json/below.json cannot be written \(Not a directory\): name another place",
    "/proc/absent.json": r"/proc/absent.json cannot be written \(No such file or directory\): name another place",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "full.json").write_text("mine")
    (tmp_path / "samples.json").write_text('[{"image": "a.png", "caption": "a"}]')
    return tmp_path


@pytest.mark.parametrize("place", FOLDERS)
@pytest.mark.parametrize("script", FOLDER_WRITERS)
def test_a_folder_that_cannot_be_written_is_refused(folder, script, place, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])  # as of a script that is started by its path
    arguments = [*FOLDER_WRITERS[script], "--output_dir", place]
    assert_refused(SCRIPTS / script, arguments, FOLDERS[place], folder)


@pytest.mark.parametrize("place", FILES)
@pytest.mark.parametrize("script", FILE_WRITERS)
def test_a_file_that_exists_or_cannot_be_written_is_refused(folder, script, place):
    arguments, flag = FILE_WRITERS[script]
    assert_refused(SCRIPTS / script, [*arguments, flag, place], f"{flag} {FILES[place]}", folder)


@pytest.mark.parametrize("script", ["retrieve.py", "arithmetic.py"])
def test_a_missing_folder_of_a_file_is_named(folder, script):
    arguments, flag = FILE_WRITERS[script]
    sentence = "--output absent/file.json cannot be written: there is no folder absent"
    assert_refused(SCRIPTS / script, [*arguments, flag, "absent/file.json"], sentence, folder)


def test_a_file_under_its_default_name_is_not_overwritten(folder):
    (folder / "vocab").mkdir()
    (folder / "vocab" / "9_llama3.json").write_text("mine")
    arguments, _ = FILE_WRITERS["create_vocab_subset.py"]
    sentence = "--output vocab/9_llama3.json exists: remove it or name another one"
    assert_refused(SCRIPTS / "create_vocab_subset.py", arguments, sentence, folder)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("full", "--output_dir full/llama_2.safetensors exists: remove it or name another one"),
        ("full.json", r"--output_dir full.json/llama_2.safetensors cannot be written \(Not a directory\)"),
        ("/proc/absent", r"--output_dir /proc/absent/llama_2.safetensors cannot be written"),
    ],
)
def test_embeddings_are_not_written_over_a_file_or_where_there_is_no_folder(folder, place, sentence):
    SharedVocabulary([" a", " b"]).save(folder / "words.json")
    (folder / "full" / "llama_2.safetensors").write_text("mine")
    arguments = ["--language_model", "absent/llama", "--vocab_path", "words.json", "--output_dir", place]
    assert_refused(SCRIPTS / "get_input_embeddings.py", arguments, sentence, folder)


@pytest.mark.parametrize("script", [script for script in FOLDER_WRITERS if not script.startswith("demo")])
def test_a_folder_that_another_run_writes_to_is_refused(folder, script):
    (folder / "out").mkdir()
    lock = "out/.lock" if script in ("train.py", "ground.py") else ".out.lock"
    with FileLock(folder / lock):
        sentence = "Another run is writing to out: wait until it ends, or name another folder"
        assert_refused(SCRIPTS / script, [*FOLDER_WRITERS[script], "--output_dir", "out"], sentence, folder)


@pytest.mark.parametrize("script", ["train.py", "ground.py"])
@pytest.mark.parametrize(
    ("checkpoint", "sentence"),
    [
        ("last", "There is no complete checkpoint in out to go on from"),
        ("out/checkpoint-9", "out/checkpoint-9 is no complete checkpoint: give another, or `last`"),
        ("absent", "absent is no complete checkpoint: give another, or `last`"),
    ],
)
def test_a_checkpoint_that_is_not_complete_is_refused_before_the_work(folder, script, checkpoint, sentence):
    (folder / "out" / "checkpoint-9").mkdir(parents=True)
    arguments = [*FOLDER_WRITERS[script], "--output_dir", "out", "--resume_from_checkpoint", checkpoint]
    assert_refused(SCRIPTS / script, arguments, sentence, folder)


def test_a_picture_of_a_models_words_is_not_drawn_over_another(folder, vision, text, processor):
    save_langbridge(vision, text, processor, folder / "model")
    make_image("red").save(folder / "red.png")
    make_image("red").save(folder / "model" / "words.png")
    arguments = ["--folder", "model", "--repo_id", "user/model", "--base_model", "user/a", "--base_model", "user/b"]
    arguments += ["--license", "mit", "--photos", "red.png", "--dry_run"]
    sentence = "model/words.png exists and is another picture: remove it, or leave --photos out"
    assert_refused(SCRIPTS / "push_to_hub.py", arguments, sentence, folder)
    # What a push that was interrupted has drawn is no hindrance to the same command.
    draw_words_picture(folder / "model", [folder / "red.png"]).save(folder / "model" / "words.png")
    result = run_script_here(SCRIPTS / "push_to_hub.py", *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr

# SPDX-License-Identifier: Apache-2.0
"""A run's checkpoints are shown side by side: which ones, on which photos, with any adapter."""

import json
import shutil

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from PIL import Image
from tiny_parts import make_image
from wordy_models import compose

from modeling_langbridge import to_llava


SCRIPT = SCRIPTS / "explain_run.py"


def save_run(folder, vision, text, steps, final=True, record=None, as_llava=False, **fields) -> None:
    """A run's folder as training leaves it: the further, the larger the projector's weights."""
    for number, name in enumerate([*(f"checkpoint-{step}" for step in steps), *([""] if final else [])]):
        model, processor = compose(vision, text, **fields)
        torch.nn.init.normal_(model.model.multi_modal_projector.linear_1.weight, std=number + 1)
        for part in to_llava(model, processor) if as_llava else (model, processor):
            part.save_pretrained(folder / name)
        if name:
            (folder / name / "trainer_state.json").write_text("{}")
    if record is not None:
        (folder / "training_record.json").write_text(json.dumps([{"steps": record}]))


@pytest.fixture(scope="module")
def runs(vision, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder / "pretrain", vision, text, [2, 10, 100], record=100)
    save_run(folder / "finetune", vision, text, [], record=50)
    make_image().save(folder / "red.png")
    return folder


def test_a_run_has_a_picture_and_each_photo_a_page_and_numbers(runs, tmp_path, run_script):
    (tmp_path / "photos").mkdir()
    for colour in ("red", "blue"):
        make_image(colour).save(tmp_path / "photos" / f"{colour}.png")
    out = tmp_path / "out"
    printed = run_script("--run", runs / "pretrain", "--images", tmp_path / "photos", "--output_dir", out, "--top", 2)
    # The final model is that of step 100.
    assert printed == f"{out} shows 2 of 2 images at step 2, step 10, step 100.\n"
    files = {f"{name}.png.{suffix}" for name in ("red", "blue") for suffix in ("html", "json")}
    assert {path.name for path in out.iterdir()} == {"progress.png", *files}
    content = json.loads((out / "blue.png.json").read_text())
    assert content["image"] == "blue.png" and list(content["stages"]) == ["step 2", "step 10", "step 100"]
    patches = [stage["views"][0]["patches"] for stage in content["stages"].values()]
    assert patches[0] != patches[1] != patches[2] and len(patches[0][0][0]) == 2
    assert (out / "red.png.html").read_text().count("<section ") == 3
    assert Image.open(out / "progress.png").width > 1000


def test_several_runs_follow_one_another_and_steps_are_chosen(runs, tmp_path, run_script):
    arguments = ("--run", runs / "pretrain", runs / "finetune", "--images", runs / "red.png", "--steps", 10)
    printed = run_script(*arguments, "--output_dir", tmp_path / "out", "--patches", "1,2", "4,4", "--all_tokens")
    assert printed.endswith(" at pretrain, step 10, pretrain, final, finetune, final.\n")


def test_an_unfinished_checkpoint_is_left_out_and_many_are_spread_evenly(runs, tmp_path, run_script):
    run = tmp_path / "run"
    for step in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        shutil.copytree(runs / "pretrain" / "checkpoint-10", run / f"checkpoint-{step}")
    (run / "checkpoint-9" / "trainer_state.json").unlink()
    printed = run_script("--run", run, "--images", runs / "red.png", "--output_dir", tmp_path / "out")
    assert printed.endswith(" at step 1, step 2, step 4, step 5, step 7, step 8.\n")


@pytest.mark.parametrize("fields", [{"adapter_type": "mlp"}, {"adapter_type": "mlp", "as_llava": True}])
def test_checkpoints_of_an_mlp_and_of_a_stock_llava_are_shown(runs, vision, text, tmp_path, run_script, fields):
    save_run(tmp_path / "run", vision, text, [5], **fields)
    printed = run_script("--run", tmp_path / "run", "--images", runs / "red.png", "--output_dir", tmp_path / "out")
    assert printed.endswith(" at step 5, final.\n")
    content = json.loads((tmp_path / "out" / "red.png.json").read_text())
    assert [view["name"] for view in content["stages"]["final"]["views"]] == ["cosine"]


def test_broken_images_are_named_and_the_others_done(runs, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"0" * 50)
    images = (tmp_path / "cut.jpg", runs / "red.png")
    result = run_script_here(SCRIPT, "--run", runs / "pretrain", "--images", *images, "--output_dir", tmp_path / "out")
    assert "shows 1 of 2 images" in result.stdout and f"left out: The image {tmp_path / 'cut.jpg'}" in result.stderr

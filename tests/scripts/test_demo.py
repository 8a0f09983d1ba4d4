# SPDX-License-Identifier: Apache-2.0
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from in_process import run_script_here
from paths import ROOT, SCRIPTS
from PIL import Image
from transformers import AutoModel, AutoModelForCausalLM, LlavaForConditionalGeneration

from experiments.synthetic.demo_report import accuracy_table, compare_captions
from experiments.synthetic.synthetic_world import make_scenes
from modeling_langbridge import LangBridgeForConditionalGeneration


SCRIPT = SCRIPTS / "demo.py"
STAGES = ("world", "tower", "language_model_a", "language_model_b", "vocabulary", "langbridge", "mlp", "captions")


def start_demo(*arguments):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C can reach all its processes and none of the tests'
        # As in a terminal: what a shell starts in the background, as these tests may be, is deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture(scope="module")
def interrupted_then_finished(tmp_path_factory):
    """A quick demo that is interrupted while models train, and then run to its end."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    first = start_demo("--quick", "--output_dir", folder)
    while not list(folder.glob(".language_model_a.*")) and first.poll() is None:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    left = {path.name for path in folder.iterdir()}
    second = start_demo("--quick", "--output_dir", folder)
    output, more_errors = second.communicate(timeout=500)
    return folder, (first.returncode, errors, left), (second.returncode, output, more_errors)


def test_ctrl_c_keeps_finished_stages_and_leaves_nothing_half_written(interrupted_then_finished):
    _, (code, errors, left), _ = interrupted_then_finished
    assert code == 130, errors
    assert "Interrupted: finished stages are kept" in errors and "Traceback" not in errors
    assert {"settings.json", "world"} <= left <= {"settings.json", "world", "tower", "language_model_b"}


def test_the_next_run_goes_on_and_ends_with_table_checkpoint_and_picture(interrupted_then_finished):
    folder, _, (code, output, errors) = interrupted_then_finished
    assert code == 0, errors
    assert "world: Scenes with captions: to train on, and held out. Done before." in errors
    assert "| LangBridge adapter |" in output and "| MLP adapter (stock LLaVA) |" in output
    assert {path.name for path in folder.iterdir()} == {
        *STAGES, "settings.json", "results.md", "results.json", "captions.png"
    }  # fmt: skip
    assert (folder / "results.md").read_text() in output
    results = json.loads((folder / "results.json").read_text())
    assert set(results["accuracy"]) == {"blind", "mlp", "langbridge", "told"}
    with Image.open(folder / "captions.png") as picture:
        assert min(picture.size) > 400


def test_the_mlp_is_stock_llava_over_the_same_frozen_parts(interrupted_then_finished):
    folder = interrupted_then_finished[0]
    mlp = LlavaForConditionalGeneration.from_pretrained(folder / "mlp")
    langbridge = LangBridgeForConditionalGeneration.from_pretrained(folder / "langbridge")
    trained = {"multi_modal_projector", "vocabulary_head"}
    for name in {name for model in (mlp.model, langbridge.model) for name, _ in model.named_children()} - trained:
        one, other = (model.model.get_submodule(name).state_dict() for model in (mlp, langbridge))
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)
    tower = AutoModel.from_pretrained(folder / "tower").state_dict()
    assert all(value.equal(tower[name]) for name, value in mlp.model.vision_tower.state_dict().items())
    language_model = AutoModelForCausalLM.from_pretrained(folder / "language_model_a").model.layers.state_dict()
    assert all(value.equal(language_model[k]) for k, value in mlp.model.language_model.layers.state_dict().items())


def test_a_third_run_only_reports(interrupted_then_finished):
    folder, _, (_, output, _) = interrupted_then_finished
    result = run_script_here(SCRIPT, "--quick", "--output_dir", folder)
    again = result.stdout
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("Done before.") == len(STAGES)
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert table and table == [line for line in again.splitlines() if line.startswith("|")]


def test_another_seed_does_not_mix_with_a_finished_demo(interrupted_then_finished, tmp_path):
    folder = shutil.copytree(interrupted_then_finished[0], tmp_path / "copy")
    result = run_script_here(SCRIPT, "--quick", "--seed", "1", "--output_dir", folder)
    assert result.returncode == 1 and not result.stdout
    assert "name another folder" in result.stderr


def test_a_folder_of_someone_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = run_script_here(SCRIPT, "--output_dir", tmp_path)
    assert result.returncode == 1 and not result.stdout
    assert str(tmp_path) in result.stderr.strip().splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def perfect_captions(scenes):
    return [scene.caption(random.Random(0)) for scene in scenes]


def test_the_report_says_which_is_better_and_when_it_cannot_tell():
    scenes = make_scenes(50, ("held_out",), 0)
    right, wrong = perfect_captions(scenes), ["a small red circle left of a large blue star"] * 50
    assert "LangBridge is better than the MLP" in compare_captions(scenes, ("LangBridge", "the MLP"), (right, wrong))
    assert "LangBridge is worse than the MLP" in compare_captions(scenes, ("LangBridge", "the MLP"), (wrong, right))
    assert "cannot be told apart" in compare_captions(scenes, ("LangBridge", "the MLP"), (wrong, wrong))


def test_the_table_has_a_row_per_system():
    scenes = make_scenes(10, ("held_out",), 0)
    table = accuracy_table(scenes, {"human": perfect_captions(scenes), "silence": [""] * 10})
    assert table.splitlines()[2:] == [
        "| human | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |",
        "| silence | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 |",
    ]

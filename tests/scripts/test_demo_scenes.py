# SPDX-License-Identifier: Apache-2.0
import json
import random
import shutil
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from datasets import load_from_disk
from in_process import run_script_here
from paths import SCRIPTS
from PIL import Image
from transformers import AutoModel, AutoModelForCausalLM, LlavaForConditionalGeneration

from experiments.stages import claim_output_dir, run_stages
from experiments.synthetic.demo_report import accuracy_table, compare_captions
from experiments.synthetic.demo_stages import QUICK, STAGES, Demo
from experiments.synthetic.synthetic_world import attribute_hits, make_scenes
from modeling_langbridge import LangBridgeForConditionalGeneration


SCRIPT = SCRIPTS / "demo_scenes.py"
NAMES = [name for group in STAGES for name in group]


@pytest.fixture(scope="module")
def quick_demo(tmp_path_factory) -> tuple[Path, CompletedProcess]:
    """The folder of a quick demo, all of whose stages run in this process, and what the command printed at the end."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    demo = Demo(folder, QUICK, seed=0)
    claim_output_dir(folder, demo.settings)
    run_stages(folder, [{name: partial(stage, demo)} for group in STAGES[:-1] for name, stage in group.items()])
    return folder, run_script_here(SCRIPT, "--quick", "--output_dir", folder)


def table_of(result: CompletedProcess) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.startswith("|")]


def test_a_run_ends_with_table_checkpoint_and_picture(quick_demo):
    folder, result = quick_demo
    assert result.returncode == 0, result.stderr
    assert "| LangBridge adapter |" in result.stdout and "| MLP adapter (stock LLaVA) |" in result.stdout
    assert {path.name for path in folder.iterdir()} == {
        *NAMES, "settings.json", "results.md", "results.json", "captions.png"
    }  # fmt: skip
    assert (folder / "results.md").read_text() in result.stdout
    results = json.loads((folder / "results.json").read_text())
    assert set(results["accuracy"]) == {"blind", "mlp", "langbridge", "told"}
    with Image.open(folder / "captions.png") as picture:
        assert min(picture.size) > 400


@pytest.mark.slow  # six processes
def test_stages_side_by_side_in_processes_of_their_own_lead_to_the_same_table(quick_demo, tmp_path):
    result = run_script_here(SCRIPT, "--quick", "--output_dir", tmp_path / "output")
    assert result.returncode == 0, result.stderr
    assert table_of(result) == table_of(quick_demo[1])


def test_the_demo_leaves_training_scenes_as_files_that_the_checker_finds_nothing_wrong_with(quick_demo):
    folder = quick_demo[0] / "samples"
    checked = run_script_here(SCRIPTS / "check_data.py", folder / "samples.json")
    assert checked.returncode == 0, checked.stdout
    samples = json.loads((folder / "samples.json").read_text())
    assert [sample["image"] for sample in samples] == [f"photos/{index}.png" for index in range(200)]
    shown = [images[0] for images in load_from_disk(str(quick_demo[0] / "world" / "train"))["images"]]
    for sample, picture, scene in zip(samples, shown, make_scenes(200, ("train",), 0), strict=True):
        with Image.open(folder / sample["image"]) as image:
            assert image.tobytes() == picture.convert("RGB").tobytes()
        assert attribute_hits(scene, sample["conversations"][1]["value"])["exact"] == 1


def test_the_mlp_is_stock_llava_over_the_same_frozen_parts(quick_demo):
    folder = quick_demo[0]
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


def test_a_second_run_does_what_is_missing_and_reports_the_same(quick_demo, tmp_path):
    folder = shutil.copytree(quick_demo[0], tmp_path / "copy")
    shutil.rmtree(folder / "captions")
    (folder / "results.md").unlink()
    result = run_script_here(SCRIPT, "--quick", "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("Done before.") == len(NAMES) - 1
    assert table_of(result) and table_of(result) == table_of(quick_demo[1])
    assert (folder / "results.md").read_text() in result.stdout


def test_another_seed_does_not_mix_with_a_finished_demo(quick_demo):
    result = run_script_here(SCRIPT, "--quick", "--seed", "1", "--output_dir", quick_demo[0])
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

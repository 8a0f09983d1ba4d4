# SPDX-License-Identifier: Apache-2.0
"""Other people's training programs on a tiny checkpoint, and the eyes of the table that says what learnt."""

import shutil
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from experiments.clients.materials import save_materials
from experiments.clients.programs import PROGRAMS
from experiments.clients.table import compare, try_program


@pytest.fixture(scope="module")
def materials(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clients") / "materials"
    save_materials(folder)
    return folder


@pytest.mark.parametrize(("part", "name"), [("tower", "vision_tower"), ("head", "vocabulary_head.weight")])
def test_the_part_that_learnt_is_named(materials, tmp_path, part, name):
    after = shutil.copytree(materials / "model", tmp_path / "after")
    weights = load_file(after / "model.safetensors")
    weights[next(key for key in weights if name in key)] += 0.1
    save_file(weights, after / "model.safetensors", metadata={"format": "pt"})
    assert compare(materials / "model", after) == part
    assert compare(materials / "model", materials / "model") == ""


def test_what_a_lora_changes_is_named(materials, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(materials / "model")
    tuned = get_peft_model(model, LoraConfig(target_modules=r".*vision_tower.*q_proj", init_lora_weights=False))
    tuned.save_pretrained(tmp_path)
    assert compare(materials / "model", tmp_path) == "tower"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_trains_a_checkpoint_which_loads_again(program, tmp_path):
    rows = list(try_program(program, tmp_path))
    if "cannot be installed" in rows[0]:
        pytest.skip(rows[0])
    assert all(row.endswith("| works |") for row in rows), "\n".join(rows)

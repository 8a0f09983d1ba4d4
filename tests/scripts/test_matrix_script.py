# SPDX-License-Identifier: Apache-2.0
"""The matrix of language models, at tiny sizes: every stage, resuming, the results, and what is refused."""

import dataclasses
import shutil

import pytest
from demo_parts import save_demo_parts
from in_process import run_script_here
from little_text import link_with_little_text
from paths import SCRIPTS

from experiments.matrix.estimate import SECONDS, estimate
from experiments.matrix.forms import FORMS, WITHOUT_SOURCE, cells_of
from experiments.matrix.results import read_results
from experiments.matrix.running import merge_runs, stages_of, write_reports
from experiments.matrix.world import QUICK, MatrixSizes, MatrixWorld
from experiments.stages import claim_output_dir, run_stages
from modeling_langbridge.utils.files import read_json


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "matrix.py"


@pytest.fixture
def empty_data(tmp_path):
    """Folders as the script asks for them, which nothing reads."""
    for name in ("caption_text", "flickr8k", "mobilenetv2_imagenet"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def run_here(world: MatrixWorld) -> list[str]:
    """All stages one after the other in this process, which has imported everything; the report after each."""
    claim_output_dir(world.output_dir, world.settings)
    stages = [{name: stage} for group in stages_of(world) for name, stage in group.items()]
    reports: list[str] = []
    run_stages(world.output_dir, stages, after_group=lambda: reports.append(write_reports(world)))
    return reports


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="scoring captions needs Java")
def test_all_stages_lead_to_a_matrix_and_a_second_run_repeats_none(data, tmp_path):
    # The loss never falls by ten: training ends at the fourth of the steps at which it is judged.
    steps = {"adapter_steps": 5, "pretrained_adapter_steps": 5, "least_gain": 10.0}
    sizes = dataclasses.replace(QUICK, language_models=QUICK.sources, **steps)
    for name in ("data", "parts"):
        (tmp_path / name).mkdir()
    small_data = link_with_little_text(data, tmp_path / "data")
    save_demo_parts(tmp_path / "parts")  # a tiny random language model in place of a pretrained one
    pretrained = {"smollm2": tmp_path / "parts" / "smollm2"}
    world = MatrixWorld(small_data, tmp_path / "output", sizes, adapter_seeds=(1,), pretrained=pretrained)
    reports = run_here(world)
    text = reports[-1]
    # The first target is in the tables before the pretrained one, which takes longest, is begun.
    assert (
        reports[0] == "" and "| small_gpt_neox |" in reports[-4] and "smollm2" not in reports[-4].split("Seconds")[0]
    )

    results = read_results(world.output_dir / "results.json")
    assert all(len(results.of("cells", target)[0]) == len(cells_of(world)) for target in world.targets)
    assert all(label in text for label in FORMS.values())
    for target in world.targets:
        log = read_json(world.output_dir / f"mlp_{target}_1" / "log.json")["steps"]
        rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
        assert log[-1]["step"] == 4 and rates[-1] < rates[0]
        assert results.of("mlp", target) == [{"steps": 4, "converged": True}]
        cells = {(cell["form"], cell["source"]): cell for cell in results.of("cells", target)[0]}
        assert cells["patches", None]["tokens"] == 49 and cells["words", None]["tokens"] == 3
        assert cells["groups", None]["tokens"] == 5
        if (
            target in sizes.sources
        ):  # lifted into words and read by the language model that it is from: the same adapter
            [own] = results.of("own", target)[0]
            assert all(cells["lifted", target][metric] == own[metric] for metric in ("CIDEr", "yes/no"))
        unknown = {form for (form, _), cell in cells.items() if cell["prognosis"]["gromov_wasserstein"] is None}
        assert unknown == set(WITHOUT_SOURCE)
    assert (world.output_dir / "matrix.png").stat().st_size > 10_000
    merged = merge_runs([world.output_dir / "results.json"], tmp_path / "tables")
    assert merged.split("Adapters that")[0].strip() == text.split("\nSeconds")[0].strip()

    stages = [name for group in stages_of(world) for name in group]
    marks = {name: (world.output_dir / name).stat().st_mtime_ns for name in stages}
    shutil.rmtree(world.output_dir / "cells_small_gpt_neox_1")
    [again_text] = run_here(world)
    assert again_text.split("Seconds")[0] == text.split("Seconds")[0]
    again = {name: (world.output_dir / name).stat().st_mtime_ns for name in stages}
    assert {name for name in marks if marks[name] != again[name]} == {"cells_small_gpt_neox_1"}


REFUSED = [
    ("--data absent", "there is no folder absent/caption_text: check --data"),
    ("--data {data} --pretrained gemma3", "Gemma 3 may be used under the Gemma Terms of Use alone"),
    ("--data {data} --pretrained smollm2 smollm2", "--pretrained names one twice"),
    ("--data {data} --seeds 1 2 1", "--seeds names one twice"),
    ("--data {data} --seeds -1", "--seeds"),
    ("--tables_of absent/results.json", "absent/results.json"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, empty_data, tmp_path, monkeypatch, options, sentence):
    monkeypatch.setenv("LANGBRIDGE_CACHE", str(tmp_path / "cache"))
    refuse(f"--output_dir out {options.replace('{data}', str(empty_data))}", sentence)


def test_a_dry_run_counts_what_is_left_and_writes_nothing(empty_data, tmp_path):
    command = [SCRIPT, "--data", empty_data, "--output_dir", tmp_path / "output", "--seeds", "1", "2", "--dry_run"]
    before = run_script_here(*command).stdout
    each = SECONDS["language_model_small"] / 60
    assert f"| language_model_small | 5 | {each:.1f} | {5 * each:.0f} |" in before and "| grounded | 2 |" in before
    assert not (tmp_path / "output").exists()
    (tmp_path / "output" / "language_model_small_llama").mkdir(parents=True)
    assert f"| language_model_small | 4 | {each:.1f} | {4 * each:.0f} |" in run_script_here(*command).stdout


def test_every_stage_has_an_estimate(empty_data, tmp_path):
    pretrained = dict.fromkeys(("smollm2", "gemma3"), empty_data)
    world = MatrixWorld(empty_data, tmp_path / "output", MatrixSizes(), adapter_seeds=(1,), pretrained=pretrained)
    stages = [name for group in stages_of(world) for name in group]
    counted = [int(line.split(" | ")[1]) for line in estimate(world).splitlines()[2:-2]]
    assert sum(counted) == len(stages)

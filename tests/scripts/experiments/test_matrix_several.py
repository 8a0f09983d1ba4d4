# SPDX-License-Identifier: Apache-2.0
"""Adapters that several language models train in turn: what is known of them, their stages and their tables."""

import dataclasses
import json
import shutil

import pytest
import torch
from little_text import link_with_little_text
from safetensors.torch import load_file

from experiments.matrix.language_models import SMALL
from experiments.matrix.results import collect_results
from experiments.matrix.running import stages_of
from experiments.matrix.several import adapters_of, compare_words, counts_of, make_as_long_as, targets_of
from experiments.matrix.several_report import DIAGNOSES, describe_several, read_several, write_several
from experiments.matrix.world import QUICK, MatrixSizes, MatrixWorld
from experiments.stages import run_stages


pytest_plugins = ["places"]


@pytest.fixture
def world(tmp_path) -> MatrixWorld:
    """Two language models take turns; nothing is there yet."""
    return MatrixWorld(tmp_path / "data", tmp_path / "output", QUICK, adapter_seeds=(1, 2), pretrained={})


def test_what_one_language_model_does_not_see_of_coefficients_another_does():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(60, width, generator=generator) for width in (8, 12))
    unseen = torch.linalg.svd(first.T).Vh[8:]  # (52, V), the null space of the first one's words
    whole = torch.ones(60, dtype=torch.bool)
    alone = compare_words(unseen, [first], second, whole)
    both = compare_words(unseen, [first, second], second, whole)
    assert alone["null_share"] == pytest.approx(1) and both["null_share"] == pytest.approx(40 / 52, abs=1e-4)


def test_words_that_follow_from_those_of_two_language_models_do_not_follow_from_one():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(200, width, generator=generator) for width in (8, 12))
    new = torch.cat([first, second], -1) @ torch.randn(20, 16, generator=generator)
    whole = torch.arange(200) < 190
    new[~whole] = torch.randn(10, 16, generator=generator)  # of words that its tokenizer splits
    coefficients = torch.randn(5, 200, generator=generator)
    assert compare_words(coefficients, [first, second], new, whole)["map_r2"] == pytest.approx(1)
    assert compare_words(coefficients, [first], new, whole)["map_r2"] < 0.8


def test_visual_tokens_become_as_long_as_words_and_keep_their_direction():
    words, tokens = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[30.0, 0.0], [-0.1, 0.1]])
    [made] = make_as_long_as(words, [tokens])
    torch.testing.assert_close(made.norm(dim=-1), torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(torch.cosine_similarity(made, tokens), torch.ones(2))


def test_no_adapter_is_trained_with_the_newcomer_which_is_of_another_family_and_reads_words():
    sizes = MatrixSizes()
    others, newcomer = [SMALL[name] for name in sizes.language_models], SMALL[sizes.newcomer]
    assert sizes.newcomer not in (*sizes.language_models, *sizes.sources) and newcomer.reads_words
    assert newcomer.config_class not in {one.config_class for one in others}
    assert newcomer.width not in {one.width for one in others}


def test_each_number_of_language_models_trains_an_adapter_of_each_form_and_seed(world):
    stages = [name for group in stages_of(world) for name in group]
    trained = {f"several_{form}_{count}_{seed}" for form in ("raw", "softmax") for count in (1, 2) for seed in (1, 2)}
    assert {name for name in stages if name.startswith("several_") and "cells" not in name} == trained
    assert list(counts_of(world)) == [1, 2]
    for needed, later in (
        ("mlp_small_olmo2_1", "own_small_olmo2_1"),
        ("several_raw_2_2", "several_cells_small_olmo2_1"),
    ):
        assert stages.index(needed) < stages.index(later)


def write_cells(world: MatrixWorld) -> None:
    """Cells in which the CIDEr is a tenth of the number of language models, or twice that on the newcomer."""
    for target in targets_of(world):
        for seed in world.adapter_seeds:
            scale = (0.2 if target == world.sizes.newcomer else 0.1) * (1 if seed == 1 else 3)
            cells = [
                {
                    "form": form,
                    "count": count,
                    "CIDEr": scale * count,
                    "loss": 2.0,
                    "diagnosis": dict.fromkeys(DIAGNOSES, 0.25 if count else None),
                }
                for form, count in adapters_of(world)
            ]
            for stage, content in ((f"several_cells_{target}_{seed}", cells), (f"own_{target}_{seed}", cells[-1:])):
                (world.output_dir / stage).mkdir(parents=True)
                (world.output_dir / stage / "cells.json").write_text(json.dumps(content))


def test_the_table_has_the_share_of_the_own_mlp_of_each_adapter_and_what_is_not_known_is_empty(world):
    write_cells(world)
    cells = {(cell.target, cell.form, cell.count): cell for cell in read_several(collect_results(world))}
    assert cells["small_olmo2", "raw", 1].share == pytest.approx(0.5)
    assert cells["small_olmo2", "raw", 2].cider == pytest.approx(0.8)  # the mean of 0.4 and 1.2
    assert cells["small_qwen2", "softmax", 0].diagnosis["null_share"] is None
    rows = describe_several(world.sizes, list(cells.values())).splitlines()
    assert sum("| raw coefficients, from random weights | 1 | 0.400 (50%) | 2.000 |" in row for row in rows) == 1
    assert sum("|  |  |" in row for row in rows) == 3  # the grounded adapter, on each target


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="scoring captions needs Java")
def test_all_stages_lead_to_a_table_and_a_picture(data, world, tmp_path):
    (tmp_path / "data").mkdir()
    link_with_little_text(data, tmp_path / "data")
    world = dataclasses.replace(world, adapter_seeds=(1,))
    matrix = ("raw", "tuned", "cells")
    stages = [
        {name: stage} for group in stages_of(world) for name, stage in group.items() if not name.startswith(matrix)
    ]
    run_stages(world.output_dir, stages)
    results = collect_results(world)
    text = write_several(results, world.output_dir)

    cells = {(cell.target, cell.form, cell.count): cell for cell in read_several(results)}
    assert len(cells) == len(targets_of(world)) * len(adapters_of(world))
    for form in ("raw", "softmax"):
        first, second = (
            load_file(world.output_dir / f"several_{form}_{count}_1" / "adapter" / "adapter.safetensors")
            for count in (1, 2)
        )
        assert any(not first[name].equal(second[name]) for name in first)
        at_home = [cells["small_qwen2", form, count].diagnosis for count in (1, 2)]
        assert at_home[0]["null_share"] > at_home[1]["null_share"] and at_home[0]["map_r2"] == pytest.approx(1)
    assert (world.output_dir / "several.md").read_text() == text
    assert (world.output_dir / "several.png").stat().st_size > 10_000

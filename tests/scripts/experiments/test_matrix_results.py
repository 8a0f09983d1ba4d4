# SPDX-License-Identifier: Apache-2.0
"""What runs of the matrix on several machines have measured, as one."""

import dataclasses
import json
from pathlib import Path

import pytest
from paths import ROOT

from experiments.matrix.prognosis import NUMBERS
from experiments.matrix.report import describe_cells, read_cells, read_own
from experiments.matrix.results import MatrixResults, collect_results, merge_results, read_results
from experiments.matrix.running import merge_runs
from experiments.matrix.world import QUICK, MatrixWorld


TARGET = QUICK.language_models[0]


def leave(folder: Path, file: str, content: object) -> None:
    folder.mkdir(parents=True)
    (folder / file).write_text(json.dumps(content))


def run_seed(folder: Path, seed: int, cider: float, sizes=QUICK) -> Path:
    """The results.json of a run in which words have this CIDEr with one target, whose own MLP has 0.5."""
    measured = {"CIDEr": cider, "yes/no": 0.75, "loss": 3.0, "tokens": 8.0, "captions": {"1.jpg": "A dog ."}}
    cell = {"form": "words", "source": None, **measured, "prognosis": dict.fromkeys(NUMBERS)}
    leave(folder / f"own_{TARGET}_{seed}", "cells.json", [{**measured, "CIDEr": 0.5}])
    leave(folder / f"cells_{TARGET}_{seed}", "cells.json", [cell])
    leave(folder / f"mlp_{TARGET}_{seed}", "log.json", {"steps": [{"step": 1}, {"step": seed}]})
    leave(folder / f"grounded_{seed}", "seconds.json", 3.5)
    world = MatrixWorld(folder / "data", folder, sizes, adapter_seeds=(seed,), pretrained={})
    collect_results(world).save(folder / "results.json")
    return folder / "results.json"


def test_results_hold_what_was_measured_and_no_captions(tmp_path):
    results = read_results(run_seed(tmp_path / "run", 1, 0.4))
    [[cell]] = results.of("cells", TARGET)
    assert cell["CIDEr"] == 0.4 and "captions" not in cell and results.seconds == {"grounded_1": 3.5}
    # Two steps are the most that QUICK takes: the one ended before them, the other did not.
    assert results.of("mlp", TARGET) == [{"steps": 1, "converged": True}]
    assert results.of("own", "small_llama") == []


def test_the_seeds_of_two_machines_become_one_mean(tmp_path):
    files = [run_seed(tmp_path / "here", 1, 0.4), run_seed(tmp_path / "there", 10, 0.2)]
    files.append(run_seed(tmp_path / "elsewhere", 2, 0.3))
    merged = merge_results(files)
    assert [mlp["steps"] for mlp in merged.of("mlp", TARGET)] == [1, 2, 10]
    [cell] = read_cells(merged, read_own(merged))
    assert cell.values["CIDEr"] == [0.4, 0.3, 0.2] and cell.shares["CIDEr"] == pytest.approx(0.6)
    assert "| 0.300 ± 0.100 (60%); 0.750 ± 0.000 (" in describe_cells([cell])
    text = merge_runs(files, tmp_path / "tables")
    assert describe_cells([cell]) in text and "Seconds" not in text
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"results.md", "matrix.png"}
    with pytest.raises(FileExistsError, match="tables exists"):
        merge_runs(files, tmp_path / "tables")


def test_the_published_tables_are_those_of_the_published_results(tmp_path):
    text = merge_runs(sorted((ROOT / "docs" / "matrix").glob("*.json")), tmp_path / "tables")
    published = (ROOT / "docs" / "results.md").read_text()
    tables = [table for table in text.split("\n\n") if table.startswith("|")]
    assert len(tables) >= 4 and all(table.strip() in published for table in tables)


def other_sizes(tmp_path: Path) -> list[Path]:
    sizes = dataclasses.replace(QUICK, grounding_steps=3)
    return [run_seed(tmp_path / "here", 1, 0.4), run_seed(tmp_path / "there", 2, 0.4, sizes)]


def the_same_seed(tmp_path: Path) -> list[Path]:
    return [run_seed(tmp_path / "here", 1, 0.4), run_seed(tmp_path / "there", 1, 0.3)]


def something_else(tmp_path: Path) -> list[Path]:
    (tmp_path / "settings.json").write_text('{"sizes": {}, "pretrained": []}')
    return [tmp_path / "settings.json"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (other_sizes, "were run with other sizes"),
        (the_same_seed, f"both have {TARGET} with seed 1: leave one out"),
        (something_else, "settings.json is no results.json of scripts/matrix.py"),
    ],
)
def test_runs_that_do_not_go_together_are_refused(tmp_path, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        merge_runs(make(tmp_path), tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_results_of_other_settings_than_these_are_named(tmp_path):
    MatrixResults({"sizes": {"no_such_size": 1}, "pretrained": []}, {}, {}).save(tmp_path / "results.json")
    with pytest.raises(ValueError, match="results.json of scripts/matrix.py: .*no_such_size"):
        read_results(tmp_path / "results.json")

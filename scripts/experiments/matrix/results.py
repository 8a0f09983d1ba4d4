# SPDX-License-Identifier: Apache-2.0
"""What a run of the matrix has measured, in one small file: runs on several machines make one table."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.matrix.world import MatrixSizes, MatrixWorld
from modeling_langbridge.utils.files import atomic_file, read_json


Measured = dict[str, dict[str, dict[str, Any]]]  # by kind, target and seed
FILE_OF_KIND = {"mlp": "log.json", "own": "cells.json", "cells": "cells.json", "several_cells": "cells.json"}


@dataclass(frozen=True)
class MatrixResults:
    """
    What the tables are made of.

    Args:
        settings (`dict[str, Any]`): Of [`MatrixWorld`].
        measured (`dict`):
            By kind, target and seed: of `"mlp"` the `steps` of the target's own MLP and whether it `converged`; of
            `"own"`, `"cells"` and `"several_cells"` what these stages measured, without captions.
        seconds (`dict[str, float]`): What each stage took.
    """

    settings: dict[str, Any]
    measured: Measured
    seconds: dict[str, float]

    @property
    def sizes(self) -> MatrixSizes:
        return MatrixSizes(**self.settings["sizes"])

    @property
    def language_models(self) -> list[str]:
        """All that adapters may have been moved to, in the order of the tables."""
        sizes = self.sizes
        return [*sizes.language_models, sizes.newcomer, *self.settings["pretrained"]]

    def of(self, kind: str, target: str) -> list:
        """What the stages of a kind have measured with a target, by seed; nothing where none has run."""
        by_seed = self.measured.get(kind, {}).get(target, {})
        return [by_seed[seed] for seed in sorted(by_seed, key=int)]

    def save(self, path: str | os.PathLike) -> None:
        with atomic_file(path) as unfinished:
            text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"
            unfinished.write_text(text, encoding="utf-8")


def collect_results(world: MatrixWorld) -> MatrixResults:
    """What the stages in the output folder have measured so far, of the seeds that are asked for."""
    measured: Measured = {}
    for kind, file in FILE_OF_KIND.items():
        for target in (*world.targets, world.sizes.newcomer):
            paths = {seed: world.output_dir / f"{kind}_{target}_{seed}" / file for seed in world.adapter_seeds}
            found = {str(seed): read_json(path) for seed, path in paths.items() if path.exists()}
            if kind == "mlp":
                most = world.sizes_for(target).adapter_steps
                found = {seed: describe_training(log, most) for seed, log in found.items()}
            else:
                found = {seed: [without_captions(cell) for cell in cells] for seed, cells in found.items()}
            if found:
                measured.setdefault(kind, {})[target] = found
    files = sorted(world.output_dir.glob("*/seconds.json"))
    return MatrixResults(world.settings, measured, {file.parent.name: read_json(file) for file in files})


def describe_training(log: dict, most: int) -> dict:
    """How many steps a training took of the `most` that it may take, and whether it ended before."""
    steps = log["steps"][-1]["step"]
    return {"steps": steps, "converged": steps < most}


def without_captions(cell: dict) -> dict:
    return {name: value for name, value in cell.items() if name != "captions"}


def read_results(path: Path) -> MatrixResults:
    """
    What a run has left in its `results.json`.

    Raises:
        `ValueError`: the file is something else.
    """
    try:
        results = MatrixResults(**read_json(path))
        MatrixSizes(**results.settings["sizes"])  # of another version they are others
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is no results.json of scripts/matrix.py: {error}.") from error
    return results


def merge_results(paths: Sequence[Path]) -> MatrixResults:
    """
    What several runs have measured, as if one had: other seeds, or other targets, of the same sizes.

    Raises:
        `ValueError`: two runs have other sizes or other language models, or have measured the same.
    """
    runs = {path: read_results(path) for path in paths}
    settings = runs[paths[0]].settings
    merged: Measured = {}
    sources: dict[tuple[str, str, str], Path] = {}
    for path, results in runs.items():
        for setting in ("sizes", "pretrained"):
            if results.settings[setting] != settings[setting]:
                raise ValueError(f"{path} and {paths[0]} were run with other {setting}: print their tables apart.")
        for kind, by_target in results.measured.items():
            for target, by_seed in by_target.items():
                for seed, found in by_seed.items():
                    before = sources.setdefault((kind, target, seed), path)
                    if before != path:
                        raise ValueError(f"{before} and {path} both have {target} with seed {seed}: leave one out.")
                    merged.setdefault(kind, {}).setdefault(target, {})[seed] = found
    return MatrixResults(settings, merged, {})

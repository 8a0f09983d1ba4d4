# SPDX-License-Identifier: Apache-2.0
"""The stages of the matrix in their order, and what they take."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from experiments.flickr8k.photo_adapters import ground, train_langbridge, train_mlp, tune
from experiments.flickr8k.photo_world import compute_features
from experiments.matrix.cells import measure_cells, measure_own
from experiments.matrix.preparing import make_tokenizers, prepare_pretrained, train_newcomer, train_small
from experiments.matrix.report import write_report
from experiments.matrix.results import MatrixResults, collect_results, merge_results
from experiments.matrix.several import (
    counts_of,
    measure_several,
    targets_of,
    train_raw_in_turn,
    tune_softmax_in_turn,
)
from experiments.matrix.several_report import write_several
from experiments.matrix.world import MatrixWorld
from experiments.stages import Stage, claim_output_dir, run_stages
from modeling_langbridge.utils.files import atomic_folder
from trainer.evaluation.caption_metrics import check_java


AT_ONCE = 2  # stages


def train_own(world: MatrixWorld, language_model: str, seed: int, folder: Path) -> None:
    """A language model's own MLP, trained on captions until that brings nothing."""
    train_mlp(dataclasses.replace(world, sizes=world.sizes_for(language_model)), language_model, seed, folder)


def stages_of(world: MatrixWorld) -> list[dict[str, Stage]]:
    """The stages in their order, pretrained language models last; those in one group run side by side."""
    stage, small, seeds = world.stage, world.sizes.language_models, world.adapter_seeds
    moved = [(name, seed) for name in world.sizes.sources for seed in seeds]
    kinds = [
        {"tokenizers": stage(make_tokenizers)},
        {
            **{f"language_model_{name}": stage(train_small, name) for name in small},
            **{f"language_model_{name}": stage(prepare_pretrained, name) for name in world.pretrained},
        },
        {"features": stage(compute_features)},
        {f"grounded_{seed}": stage(ground, seed) for seed in seeds},
        {f"raw_{name}_{seed}": stage(train_langbridge, name, seed) for name, seed in moved},
        {f"tuned_{name}_{seed}": stage(tune, name, seed) for name, seed in moved},
        *measure_targets(world, small, seeds),
        *stages_of_several(world),
        # Too slow for an MLP with each seed.
        *chain.from_iterable(measure_targets(world, [name], seeds[:1]) for name in world.pretrained),
        *(
            {f"cells_{name}_{seed}": stage(measure_cells, name, seed) for name in world.pretrained}
            for seed in seeds[1:]
        ),
        measure_all_of_several(world, [name for name in targets_of(world) if name in world.pretrained]),
    ]
    return list(chain.from_iterable(map(few_at_once, kinds)))


def measure_targets(world: MatrixWorld, targets: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Stage]]:
    """What each target takes: its own MLP, what it has with that, and its cells."""
    steps = {"mlp": train_own, "own": measure_own, "cells": measure_cells}
    measured = [(target, seed) for target in targets for seed in seeds]
    return [
        {f"{kind}_{target}_{seed}": world.stage(function, target, seed) for target, seed in measured}
        for kind, function in steps.items()
    ]


def stages_of_several(world: MatrixWorld) -> list[dict[str, Stage]]:
    """Adapters that several language models train in turn, and a language model that has no part in that."""
    stage, newcomer, seeds = world.stage, world.sizes.newcomer, world.adapter_seeds
    trained = [(count, seed) for count in counts_of(world) for seed in seeds]
    return [
        {f"language_model_{newcomer}": stage(train_newcomer)},
        {f"mlp_{newcomer}_{seed}": stage(train_own, newcomer, seed) for seed in seeds},
        {f"own_{newcomer}_{seed}": stage(measure_own, newcomer, seed) for seed in seeds},
        {f"several_raw_{count}_{seed}": stage(train_raw_in_turn, count, seed) for count, seed in trained},
        {f"several_softmax_{count}_{seed}": stage(tune_softmax_in_turn, count, seed) for count, seed in trained},
        measure_all_of_several(world, [name for name in targets_of(world) if name not in world.pretrained]),
    ]


def measure_all_of_several(world: MatrixWorld, targets: Sequence[str]) -> dict[str, Stage]:
    return {
        f"several_cells_{target}_{seed}": world.stage(measure_several, target, seed)
        for target in targets
        for seed in world.adapter_seeds
    }


def few_at_once(stages: dict[str, Stage]) -> Iterator[dict[str, Stage]]:
    """The same stages, in groups of `AT_ONCE`."""
    items = list(stages.items())
    for start in range(0, len(items), AT_ONCE):
        yield dict(items[start : start + AT_ONCE])


def run_matrix(world: MatrixWorld) -> str:
    """
    Runs all stages; writes results.json, results.md, matrix.png, several.md and several.png anew after each group of
    them, and returns the tables.

    Raises:
        `FileExistsError`: the output folder is not this run's.
        `FileNotFoundError`: there is no Java, which the scores need.
    """
    check_java()
    claim_output_dir(world.output_dir, world.settings)
    run_stages(world.output_dir, stages_of(world), after_group=partial(write_reports, world))
    return write_reports(world)


def write_reports(world: MatrixWorld) -> str:
    results = collect_results(world)
    results.save(world.output_dir / "results.json")
    return write_tables(results, world.output_dir)


def merge_runs(files: Sequence[Path], output_dir: Path) -> str:
    """
    Writes results.md, matrix.png, several.md and several.png of what several runs have measured; returns the tables.

    Args:
        files (`Sequence[Path]`): The results.json of each run.
        output_dir (`Path`): The folder to be; it must not exist yet, or be empty.

    Raises:
        `FileExistsError`: the output folder holds something.
        `FileNotFoundError`: a file is missing.
        `ValueError`: the runs do not go together, or a file is something else.
    """
    results = merge_results(files)
    with atomic_folder(output_dir) as folder:
        return write_tables(results, folder)


def write_tables(results: MatrixResults, folder: Path) -> str:
    return "\n".join(filter(None, (write_report(results, folder), write_several(results, folder))))

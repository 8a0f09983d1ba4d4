# SPDX-License-Identifier: Apache-2.0
"""The stages of the matrix in their order, and what they take."""

import dataclasses
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from experiments.flickr8k.photo_adapters import ground, train_langbridge, train_mlp, tune
from experiments.flickr8k.photo_world import compute_features
from experiments.matrix.cells import measure_cells, measure_own
from experiments.matrix.preparing import make_tokenizers, prepare_pretrained, train_small
from experiments.matrix.report import write_report
from experiments.matrix.world import MatrixWorld
from experiments.stages import Stage, claim_output_dir, run_stages
from trainer.evaluation.caption_metrics import check_java


AT_ONCE = 2  # stages


def train_own(world: MatrixWorld, language_model: str, seed: int, folder: Path) -> None:
    """A language model's own MLP, trained on captions until that brings nothing."""
    train_mlp(dataclasses.replace(world, sizes=world.sizes_for(language_model)), language_model, seed, folder)


def stages_of(world: MatrixWorld) -> list[dict[str, Stage]]:
    """The stages in their order; those in one group run side by side."""
    stage, small, seeds = world.stage, world.sizes.language_models, world.adapter_seeds
    own = [(name, seed) for name in small for seed in seeds]
    own += [(name, seeds[0]) for name in world.pretrained]  # too slow for several
    moved = [(name, seed) for name in world.sizes.sources for seed in seeds]
    cells = [(name, seed) for name in world.targets for seed in seeds]  # those of a group take equally long
    kinds = [
        {"tokenizers": stage(make_tokenizers)},
        {
            **{f"language_model_{name}": stage(train_small, name) for name in small},
            **{f"language_model_{name}": stage(prepare_pretrained, name) for name in world.pretrained},
        },
        {"features": stage(compute_features)},
        {f"grounded_{seed}": stage(ground, seed) for seed in seeds},
        {f"mlp_{name}_{seed}": stage(train_own, name, seed) for name, seed in own},
        {f"raw_{name}_{seed}": stage(train_langbridge, name, seed) for name, seed in moved},
        {f"tuned_{name}_{seed}": stage(tune, name, seed) for name, seed in moved},
        {f"own_{name}_{seed}": stage(measure_own, name, seed) for name, seed in own},
        {f"cells_{name}_{seed}": stage(measure_cells, name, seed) for name, seed in cells},
    ]
    return list(chain.from_iterable(map(few_at_once, kinds)))


def few_at_once(stages: dict[str, Stage]) -> Iterator[dict[str, Stage]]:
    """The same stages, in groups of `AT_ONCE`."""
    items = list(stages.items())
    for start in range(0, len(items), AT_ONCE):
        yield dict(items[start : start + AT_ONCE])


def run_matrix(world: MatrixWorld) -> str:
    """
    Runs all stages, writes results.json, results.md and matrix.png; returns the tables.

    Raises:
        `FileExistsError`: the output folder is not this run's.
        `FileNotFoundError`: there is no Java, which the scores need.
    """
    check_java()
    claim_output_dir(world.output_dir, world.settings)
    return write_report(world, run_stages(world.output_dir, stages_of(world)))

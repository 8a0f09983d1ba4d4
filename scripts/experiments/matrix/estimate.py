# SPDX-License-Identifier: Apache-2.0
"""What a run of the matrix takes: its stages that are not done yet, and their CPU time."""

from collections import defaultdict

from experiments.matrix.running import stages_of
from experiments.matrix.world import MatrixWorld


# CPU seconds of a stage with MatrixSizes, by how its name begins, the first that fits: as measured on a core of an
# Intel Xeon (AMX) with other work; what has to do with several is from an earlier run. Adapters take as long where
# they do not converge before.
SECONDS = {
    "tokenizers": 20,
    "language_model_small": 500,
    "language_model": 5,
    "features": 320,
    "grounded": 80,
    "mlp_small": 320,
    "mlp_smollm2": 2300,
    "mlp_gemma3": 3600,
    "raw": 250,
    "tuned": 100,
    "own_small": 16,
    "own_smollm2": 140,
    "own_gemma3": 190,
    "several_raw": 90,
    "several_softmax": 50,
    "several_cells_small": 150,
    "several_cells_smollm2": 1000,
    "cells_small": 160,
    "cells_smollm2": 1600,
    "cells_gemma3": 1600,
}


def estimate(world: MatrixWorld) -> str:
    """A table of the stages that are left, by what they have in common, and their CPU time at the default sizes."""
    left = [name for group in stages_of(world) for name in group if not (world.output_dir / name).exists()]
    kinds = defaultdict(list)
    for name in left:
        kinds[next(kind for kind in SECONDS if name.startswith(kind))].append(name)
    lines = ["| stages left | how many | CPU minutes each | in all |", "|---|---:|---:|---:|"]
    for kind, names in kinds.items():
        each = SECONDS[kind] / 60
        lines.append(f"| {kind} | {len(names)} | {each:.1f} | {each * len(names):.0f} |")
    total = sum(SECONDS[kind] * len(names) for kind, names in kinds.items()) / 60
    return "\n".join([*lines, f"\n{total:.0f} CPU minutes, two stages side by side on two cores."])

# SPDX-License-Identifier: Apache-2.0
"""Training in two processes on the CPU, as `accelerate launch` starts them."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from paths import ROOT, SCRIPTS


def train_in_two_processes(preset: str, commands: Iterable[Sequence[object]], cwd: Path = ROOT) -> str:
    """Runs train.py with each of the command lines, one after the other, in two processes under the preset of that
    name; returns what they write to stderr."""
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(SCRIPTS / "accelerate" / f"{preset}.yaml"), "--num_processes", "2"]
    launch += ["--mixed_precision", "no", "--main_process_port", "0", str(ROOT / "tests" / "sharded_on_cpu.py")]
    launch.append(str(SCRIPTS / "train.py"))
    for command in commands:
        launch += [*map(str, command), "+"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(launch, capture_output=True, text=True, timeout=500, env=environment, cwd=cwd)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stderr

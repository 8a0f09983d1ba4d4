# SPDX-License-Identifier: Apache-2.0
r"""
Trains a tiny checkpoint with each program and prints the table of docs/clients.md.

    PYTHONPATH=.:scripts python -m experiments.clients.table --output_dir clients_output

ms-swift and LLaMA-Factory get an environment of their own, 0.9 GB from the package index, which stays for the next
time. A trial passes where the folder that it leaves loads, answers a question about a photo, and differs from the
checkpoint in the parts that were to learn, and in no others.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments.clients.programs import LANGUAGE_MODEL, PROGRAMS, Program, Trial, make_environment
from trainer.command_line import run_script


HEADER = "| program | version | transformers | what was run | what learnt | outcome |\n|---|---|---|---|---|---|"
SECONDS = 1200
VERSIONS = "from importlib.metadata import version; import sys; print(*map(version, sys.argv[1:]))"
KINDS = {"vision_tower": "tower", "multi_modal_projector": "projector", "vocabulary_head": "head"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, default=Path("clients_output"), help="holds all (default: %(default)s)"
    )
    names = [program.name for program in PROGRAMS]
    parser.add_argument("--programs", nargs="+", choices=names, default=names, help="default: all")
    arguments = parser.parse_args()
    print(HEADER)
    for program in PROGRAMS:
        if program.name in arguments.programs:
            for row in try_program(program, arguments.output_dir.absolute()):
                print(row, flush=True)


def try_program(program: Program, output_dir: Path) -> Iterator[str]:
    """The table's rows of a program, one for each trial."""
    from experiments.clients.materials import save_materials

    python = Path(sys.executable)
    if program.packages:
        try:
            python = make_environment(program, output_dir / "environments" / program.distribution)
        except OSError as error:
            yield f"| {program.name} | | | | | cannot be installed: {error} |"
            return
    command = [python, "-c", VERSIONS, program.distribution, "transformers"]
    versions = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    folder = output_dir / program.distribution
    shutil.rmtree(folder, ignore_errors=True)
    save_materials(folder)
    for trial in program.trials:
        learnt, outcome = run_trial(trial, python, folder)
        yield f"| {program.name} | {' | '.join(versions)} | {trial.what} | {learnt} | {outcome} |"


def run_trial(trial: Trial, python: Path, folder: Path) -> tuple[str, str]:
    """What learnt in a trial, and "works" or why it does not."""
    from experiments.versions.trial import find_exception

    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HF_HOME": home, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder)}
        try:
            result = subprocess.run(
                [python, *trial.command.split()],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return "", f"took more than {SECONDS} s"
    if result.returncode:
        return "", find_exception(result.stderr) or f"status {result.returncode}"
    outputs = list(folder.glob(trial.output))
    if len(outputs) != 1:
        return "", f"leaves {len(outputs)} folders {trial.output}"
    learnt = compare(folder / "model", outputs[0])
    return learnt, "works" if learnt == trial.learns else f"not what was to learn: {trial.learns}"


def compare(before: Path, after: Path) -> str:
    """The parts in which a trained folder differs from the checkpoint, once it has answered about a photo."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

    model = AutoModelForImageTextToText.from_pretrained(before, trust_remote_code=True, dtype=torch.float32)
    known = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if (after / "adapter_config.json").is_file():
        model = PeftModel.from_pretrained(model, after).merge_and_unload()
    else:
        model = AutoModelForImageTextToText.from_pretrained(after, trust_remote_code=True, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(before, trust_remote_code=True)
    photo = {"type": "image", "path": str(before.parent / "parts" / "photo.png")}
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    pipe(text=[{"role": "user", "content": [photo, {"type": "text", "text": "what?"}]}], max_new_tokens=2)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, known[name])}
    kinds = {next((kind for part, kind in KINDS.items() if part in name), LANGUAGE_MODEL) for name in changed}
    return ", ".join(sorted(kinds))


if __name__ == "__main__":
    run_script(main)

# SPDX-License-Identifier: Apache-2.0
"""Measures a checkpoint on the paper's seven benchmarks with lmms-eval, beside the paper's numbers."""

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import DTYPES, run_script
from trainer.number_arguments import at_least


if TYPE_CHECKING:
    from trainer.evaluation.benchmarks import Outcome


EPILOG = """examples:
  scripts/evaluate_all.sh my-langbridge
  scripts/evaluate_all.sh my-langbridge --tasks pope,gqa --batch_size 32 --dtype bfloat16
  scripts/evaluate_all.sh my-langbridge --tasks my_task --include_path my_tasks

GQA, TextVQA, MME, MMBench, MM-Vet, POPE and ScienceQA need the Hub, and `hf auth login`; MM-Vet also needs
OPENAI_API_KEY, for the model that judges its answers. What cannot be run is named in the table, with the reason.
lmms-eval is installed once, into an environment of its own. The same command goes on after an interruption, and
asks again for what could not be run.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="CHECKPOINT", help="a LangBridge or another vision-language model")
    parser.add_argument(
        "--tasks", help="tasks of lmms-eval, with commas between them (default: the paper's seven benchmarks)"
    )
    parser.add_argument(
        "--output_dir", type=Path, metavar="FOLDER", help="where all is written (default: benchmarks/CHECKPOINT)"
    )
    parser.add_argument("--batch_size", type=at_least(1), default=16, help="questions at a time (default: 16)")
    parser.add_argument(
        "--num_processes", type=at_least(1), default=1, help="share the questions, each on its own GPU (default: 1)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the checkpoint's)")
    parser.add_argument("--limit", type=at_least(1), help="only the first questions of each task, for a trial")
    parser.add_argument("--include_path", type=Path, metavar="FOLDER", help="further tasks, in lmms-eval's YAML files")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run the code that the model and its processor come with"
    )
    parser.add_argument(
        "--environment", type=Path, metavar="FOLDER", help="lmms-eval's (default: ~/.cache/langbridge/lmms_eval)"
    )
    arguments = parser.parse_args()
    if arguments.tasks is not None:
        arguments.tasks = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
        if not arguments.tasks:
            raise ValueError("--tasks is empty: name tasks of lmms-eval, or leave it out.")
    if Path(arguments.model).is_dir():
        arguments.model = str(Path(arguments.model).absolute())
    places = f"{arguments.model}{arguments.output_dir or ''}"
    if set(places) & set(",\"'{}[]"):
        raise ValueError(f"lmms-eval cannot be given {places!r}: use paths without commas, quotes and brackets.")
    if arguments.include_path is not None and not arguments.include_path.is_dir():
        raise ValueError(f"--include_path {arguments.include_path} is no folder: name one of lmms-eval's YAML files.")
    if arguments.output_dir is None:
        arguments.output_dir = Path("benchmarks") / Path(arguments.model).name
    return arguments


def write_report(arguments: argparse.Namespace, outcomes: dict[str, "Outcome"], of: int) -> str:
    """Writes `results.md` and `results.json`, as far as the tasks have come; gives the table."""
    from dataclasses import asdict

    import torch

    from hub_cards.facts import Result
    from modeling_langbridge.utils.files import atomic_file
    from trainer.evaluation.benchmarks import benchmark_table
    from trainer.evaluation.lmms_eval_environment import LMMS_EVAL
    from trainer.publishing.recorder import name_device

    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    date = datetime.now(UTC).date().isoformat()
    limit = f"the first {arguments.limit:,}" if arguments.limit else ""
    head = [f"{Path(arguments.model).name}, {LMMS_EVAL}, {date}."]
    if limit:
        head.append(f"Only {limit} questions of each task: not to be compared with the paper's numbers.")
    if len(outcomes) < of:
        head.append(f"{len(outcomes)} of {of} tasks.")
    table = f"{' '.join(head)}\n\n{benchmark_table(outcomes)}\n"
    results = [
        Result(
            metric=f"{task}: {name}",
            value=value,
            dataset=task,
            split=limit or "lmms-eval's",
            command=f"scripts/evaluate_all.sh {shlex.join(words)}",
            date=date,
            machine=name_device(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        )
        for task, outcome in outcomes.items()
        for name, value in outcome.scores.items()
    ]
    written = json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False) + "\n"
    for name, content in (("results.md", table), ("results.json", written)):
        with atomic_file(arguments.output_dir / name) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
    return table


def main() -> int:
    arguments = parse_arguments()
    from modeling_langbridge.adapter.loading import check_weights, open_processor
    from modeling_langbridge.utils.outputs import locked
    from trainer.evaluation.answer_files import claim, digest_checkpoint, require_own
    from trainer.evaluation.benchmarks import BENCHMARKS, Harness, run_task
    from trainer.evaluation.evaluating import check_output_dir, is_ours
    from trainer.evaluation.lmms_eval_environment import DEFAULT_FOLDER, LMMS_EVAL, make_environment

    if is_ours(arguments.model):  # before lmms-eval's long way to the same words
        check_weights(arguments.model, open_processor(arguments.model)[0])
    folder, tasks = arguments.output_dir, arguments.tasks or list(BENCHMARKS)
    settings = {
        "model": arguments.model,
        "checkpoint": digest_checkpoint(arguments.model),
        "harness": LMMS_EVAL,
        "limit": arguments.limit,
        "dtype": arguments.dtype,
    }
    check_output_dir(folder)
    for task in tasks:
        require_own(folder / task, settings)
    harness = Harness(
        python=make_environment(arguments.environment or DEFAULT_FOLDER),
        model=arguments.model,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        trust_remote_code=arguments.trust_remote_code,
        limit=arguments.limit,
        include_path=arguments.include_path,
        num_processes=arguments.num_processes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    with locked(folder, folder / ".lock"):
        for number, task in enumerate(tasks, 1):
            claim(folder / task, settings)
            sys.stderr.write(f"{number} of {len(tasks)}: {task}; its log is {folder / task / 'log.txt'}\n")
            outcomes[task] = run_task(harness, task, folder / task)
            table = write_report(arguments, outcomes, len(tasks))
    print(f"{table}\nThe answers are in {folder}.")
    return 0 if any(outcome.scores for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    run_script(main, interrupted="Stopped. The same command goes on where this one stopped.")

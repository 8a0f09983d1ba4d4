# SPDX-License-Identifier: Apache-2.0
"""Measures a model as the field does: captions, short answers, yes/no questions and retrieval, with intervals."""

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import DTYPES, run_script
from trainer.decoding_arguments import KEEPS_TO_IMAGES, add_decoding_arguments, read_decoding
from trainer.number_arguments import at_least


if TYPE_CHECKING:
    from trainer.evaluation.evaluating import Found, Plan


TASKS = ("caption", "vqa", "yes_no", "retrieval")
WHERE = "scripts/download_data.sh fetches the paper's data, docs/evaluation.md describes the files"
EPILOG = f"""examples:
  python scripts/evaluate.py --model my-langbridge --tasks caption,yes_no --data captions.jsonl pope.jsonl \\
      --output_dir evaluation --controls
  accelerate launch --num_processes 4 scripts/evaluate.py --model my-langbridge --tasks vqa --data vqa.jsonl \\
      --output_dir evaluation

  Two evaluations, or two checkpoints, compared:
    python scripts/evaluate.py --compare evaluation other-evaluation
    python scripts/evaluate.py --compare my-langbridge my-other --tasks caption --data captions.jsonl \\
        --output_dir compared

The same command goes on after an interruption. {WHERE}.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a LangBridge checkpoint or another vision-language model, by folder or Hub id")
    what.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two output folders of this script, or two checkpoints"
    )
    parser.add_argument("--tasks", help=f"some of {','.join(TASKS)}, with commas between them")
    parser.add_argument("--data", nargs="+", default=[], metavar="FILE", help="a file for each task, in their order")
    parser.add_argument("--output_dir", type=Path, metavar="FOLDER", help="where answers and tables are written")
    parser.add_argument(
        "--image_folder", help="what image paths are relative to (default: the file's own folder, or `images` in it)"
    )
    parser.add_argument("--split", default="test", help="the rows whose field `split` says so (default: test)")
    parser.add_argument("--controls", action="store_true", help="also without the picture, with another, and as words")
    parser.add_argument("--max_samples", type=at_least(2), help="only the first ones of each task")
    parser.add_argument("--batch_size", type=at_least(1), default=16, help="questions at a time (default: 16)")
    parser.add_argument("--num_beams", type=at_least(1), help="of beam search (default: answers are greedy)")
    parser.add_argument("--max_new_tokens", type=at_least(1), help="length of answers (default: 30 for captions, 10)")
    parser.add_argument(
        "--prompts",
        nargs="+",
        metavar="TEXT",
        help="for each task what is asked for a caption or follows a question (default: LLaVA's)",
    )
    parser.add_argument("--num_fewshot", type=at_least(1), help="this many examples with answers before each question")
    parser.add_argument(
        "--fewshot_data",
        nargs="+",
        metavar="FILE",
        help="for each task where examples are, its first rows of split `train` (default: the files of --data)",
    )
    add_decoding_arguments(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the checkpoint's)")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run the code that the model and its processor come with"
    )
    parser.add_argument(
        "--hub_datasets",
        nargs="+",
        metavar="ID",
        help="each task's dataset on the Hub: also write .eval_results/*.yaml",
    )
    arguments = parser.parse_args()
    if arguments.compare is not None and arguments.tasks is None:
        refuse_needless(arguments)
        return arguments
    arguments.tasks = read_tasks(arguments.tasks)
    if len(arguments.data) < len(arguments.tasks):
        task = arguments.tasks[len(arguments.data)]
        raise ValueError(f"The task {task} has no data: give --data a file for each task; {WHERE}.")
    for option in ("data", "fewshot_data", "prompts", "hub_datasets"):
        given = getattr(arguments, option)
        if given is not None and len(given) != len(arguments.tasks):
            raise ValueError(
                f"--{option} has {len(given)} entries for {len(arguments.tasks)} tasks: give one for each."
            )
    if arguments.fewshot_data and not arguments.num_fewshot:
        raise ValueError("--fewshot_data is for examples: give --num_fewshot, too, or leave it out.")
    for option, paths in (("data", arguments.data), ("fewshot_data", arguments.fewshot_data or [])):
        for path in paths:
            if Path(path).suffix and not Path(path).exists():
                raise ValueError(f"--{option} {path} does not exist: {WHERE}.")
    if arguments.guidance_scale is not None and arguments.num_beams is not None:
        raise ValueError("--guidance_scale is for greedy answers: leave it out, or --num_beams.")
    if arguments.output_dir is None:
        raise ValueError("--output_dir is missing: name the folder that the answers are written to.")
    if arguments.compare is not None and arguments.compare[0] == arguments.compare[1]:
        raise ValueError(f"--compare names {arguments.compare[0]} twice: name two checkpoints.")
    return arguments


def refuse_needless(arguments: argparse.Namespace) -> None:
    """Two folders of answers are compared as they are."""
    files, numbers = ("data", "fewshot_data", "output_dir"), ("max_samples", "num_fewshot", "num_beams")
    for name in (*files, *numbers, *KEEPS_TO_IMAGES, "controls", "prompts", "hub_datasets"):
        if getattr(arguments, name):
            raise ValueError(f"--{name} is for evaluating checkpoints: give --tasks too, or leave it out.")


def read_tasks(text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if not names:
        raise ValueError(f"--tasks is missing: name some of {', '.join(TASKS)}.")
    if unknown := [name for name in names if name not in TASKS]:
        raise ValueError(f"--tasks has {unknown[0]!r}, which is none of {', '.join(TASKS)}.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--tasks names {twice[0]} twice: name it once.")
    return names


def report(arguments: argparse.Namespace, model: str, plan: "Plan", found: dict[str, "Found"], folder: Path) -> str:
    """Writes `results.md`, `results.json` and, where asked, `.eval_results/*.yaml`; gives the tables."""
    from dataclasses import asdict

    import torch

    from hub_cards.facts import Result
    from modeling_langbridge.utils.files import atomic_file
    from trainer.evaluation.controls import OWN
    from trainer.evaluation.evaluation_report import evaluation_table
    from trainer.publishing.recorder import name_device

    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = f"python scripts/evaluate.py {shlex.join(words)}"
    machine = name_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    date = datetime.now(UTC).date().isoformat()
    hub_datasets = dict(zip(plan.data, arguments.hub_datasets or [], strict=False))
    text, results = [f"{model}, {date}; in brackets 95 % intervals over pictures."], []
    for task, of in found.items():
        after = f", num_fewshot {of.examples}" if of.examples else ""
        after += f", {decoding}" if (decoding := str(plan.decode(task))) else ""
        split = plan.data[task].split + (f", the first {of.asked:,} of {of.of:,}" if of.asked < of.of else "") + after
        speed = f", {of.speed:.2f} images per second" if of.speed else ""
        text.append(f"{of.asked:,} of {of.of:,} questions{after}{speed}\n\n{evaluation_table(task, of.measures)}")
        dataset = hub_datasets.get(task, Path(plan.data[task].path).name)
        results += [
            Result(
                metric=f"{task}: {name}",
                value=str(measure.estimate()),
                dataset=dataset,
                split=split,
                command=command,
                date=date,
                machine=machine,
            )
            for name, measure in of.measures[OWN].items()
        ]
        if task in hub_datasets:
            write_hub_results(folder, task, dataset, split, date, of)
    for name, content in (
        ("results.md", "\n\n".join(text)),
        ("results.json", json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False)),
    ):
        with atomic_file(folder / name) as unfinished:
            unfinished.write_text(content + "\n", encoding="utf-8")
    return "\n\n".join(text)


def write_hub_results(folder: Path, task: str, dataset: str, split: str, date: str, of: "Found") -> None:
    """The measure that counts, in the Hub's form."""
    from huggingface_hub import EvalResultEntry

    from hub_cards.eval_results import write_eval_results
    from trainer.evaluation.controls import OWN

    name, measure = next(iter(of.measures[OWN].items()))
    value, low, high = measure.estimate()
    notes = f"{name}, 95 % interval {low:.4f} to {high:.4f}, split {split}, LangBridge's scripts/evaluate.py"
    entry = EvalResultEntry(dataset_id=dataset, task_id=task, value=round(value, 4), date=date, notes=notes)
    write_eval_results(folder, task, [entry])


def evaluate(arguments: argparse.Namespace, model: str, folder: Path) -> bool:
    """Evaluates one model and, in the first of several processes, prints its tables and returns True."""
    from trainer.evaluation.evaluating import Plan, evaluate
    from trainer.evaluation.questions import Data

    def data_of(paths: list[str], split: str) -> dict[str, Data]:
        return {
            task: Data(path, arguments.image_folder, split) for task, path in zip(arguments.tasks, paths, strict=True)
        }

    plan = Plan(
        data=data_of(arguments.data, arguments.split),
        controls=arguments.controls,
        max_samples=arguments.max_samples,
        batch_size=arguments.batch_size,
        prompts=dict(zip(arguments.tasks, arguments.prompts or [], strict=False)),
        max_new_tokens=arguments.max_new_tokens,
        num_fewshot=arguments.num_fewshot,
        fewshot_data=data_of(arguments.fewshot_data or arguments.data, "train"),
        decoding=read_decoding(arguments, arguments.num_beams),
        dtype=arguments.dtype,
        trust_remote_code=arguments.trust_remote_code,
    )
    found = evaluate(model, plan, folder)
    if found:
        print(f"{report(arguments, model, plan, found, folder)}\n\nThe answers are in {folder}.\n")
    return bool(found)


def main() -> None:
    arguments = parse_arguments()
    if arguments.hub_datasets:
        from hub_cards.facts import require_repo_id

        for name in arguments.hub_datasets:
            require_repo_id(name)
    if arguments.compare is None:
        evaluate(arguments, arguments.model, arguments.output_dir)
        return
    from trainer.evaluation.comparing import compare

    folders = list(map(Path, arguments.compare))
    if arguments.tasks is not None:
        folders = [arguments.output_dir / name for name in ("A", "B")]
        pairs = zip(arguments.compare, folders, strict=True)
        done = [evaluate(arguments, model, folder) for model, folder in pairs]
        if not all(done):
            return
    print(compare(*folders))


if __name__ == "__main__":
    run_script(main, interrupted="Stopped. The same command goes on where this one stopped.")

# SPDX-License-Identifier: Apache-2.0
"""The paper's seven benchmarks as tasks of lmms-eval, each run in a process of its own, and the paper's numbers."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Benchmark:
    """
    A benchmark of the paper.

    Args:
        name (`str`): as in the paper's table.
        metrics (`tuple[str, ...]`): lmms-eval's, which are added.
        scale (`float`): what makes lmms-eval's number the paper's.
        paper (`tuple[float, ...]`): the paper's numbers, in the order of `ROWS`.
        judge (`bool`, *optional*): whether a model of OpenAI judges the answers.
    """

    name: str
    metrics: tuple[str, ...]
    scale: float
    paper: tuple[float, ...]
    judge: bool = False


# Liao et al., ICCV 2025 (arXiv 2503.19404), by a third party's notes: a language model, and an adapter that was
# trained with one of the size that is named.
ROWS = ("Qwen2-7B, MLP", "Qwen2-7B, LangBridge of 0.5B", "Qwen2.5-14B, MLP", "Qwen2.5-14B, LangBridge of 0.5B")
BENCHMARKS = {
    "gqa": Benchmark("GQA", ("exact_match",), 100, (62.92, 63.03, 63.71, 63.92)),
    "textvqa_val": Benchmark("TextVQA", ("exact_match",), 100, (57.24, 57.25, 61.32, 62.02)),
    "mme": Benchmark("MME", ("mme_perception_score", "mme_cognition_score"), 1, (1938, 1886, 2038, 1990)),
    "mmbench_en_dev_static": Benchmark("MMBench", ("gpt_eval_score",), 1, (72.7, 71.7, 78.2, 77.4)),
    "mmvet": Benchmark("MM-Vet", ("gpt_eval_score",), 1, (35.5, 34.1, 37.7, 38.4), judge=True),
    "pope": Benchmark("POPE", ("pope_f1_score",), 100, (87.8, 88.2, 88.1, 87.6)),
    "scienceqa_img": Benchmark("ScienceQA", ("exact_match",), 100, (79.44, 79.23, 85.59, 84.77)),
}


@dataclass(frozen=True)
class Harness:
    """
    How lmms-eval is called.

    Args:
        python (`Path`): the Python of an environment that has it.
        model (`str`): a checkpoint, by folder or Hub id.
        batch_size (`int`): questions at a time.
        dtype (`str`, *optional*): of the weights; the checkpoint's by default.
        trust_remote_code (`bool`, *optional*): whether the model and the processor may bring their own code.
        limit (`int`, *optional*): only the first questions of each task.
        include_path (`Path`, *optional*): a folder of further tasks, in lmms-eval's YAML.
        num_processes (`int`, *optional*, defaults to 1): how many share the questions, each on a GPU of its own.
    """

    python: Path
    model: str
    batch_size: int
    dtype: str | None = None
    trust_remote_code: bool = False
    limit: int | None = None
    include_path: Path | None = None
    num_processes: int = 1

    def command(self, task: str, folder: Path) -> list[str]:
        model = [f"pretrained={self.model}", f"trust_remote_code={self.trust_remote_code}", f"answers={folder}"]
        if self.dtype is not None:
            model.append(f"dtype={self.dtype}")
        options = ["--model", "langbridge", "--model_args", ",".join(model), "--tasks", task]
        options += ["--batch_size", str(self.batch_size), "--output_path", str(folder), "--log_samples"]
        if self.limit is not None:
            options += ["--limit", str(self.limit)]
        if self.include_path is not None:
            options += ["--include_path", str(self.include_path.absolute())]
        launcher = []
        if self.num_processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.num_processes)]
        return [str(self.python), *launcher, "-m", "lmms_eval", *options]


@dataclass(frozen=True)
class Outcome:
    """What came of a task: lmms-eval's numbers by metric, or why there are none."""

    scores: Mapping[str, float]
    reason: str = ""


def run_task(harness: Harness, task: str, folder: Path) -> Outcome:
    """
    Runs a task, or reads the result that an earlier call left. What lmms-eval says goes to `log.txt` too.

    Args:
        harness ([`Harness`]): how lmms-eval is called.
        task (`str`): its name in lmms-eval.
        folder (`Path`): the task's own, which exists. Batches that it has the answers of are not asked again.
    """
    if scores := read_scores(folder, task):
        return Outcome(scores)
    benchmark = BENCHMARKS.get(task)
    if benchmark and benchmark.judge and lacks_judge():
        return Outcome({}, "a model of OpenAI judges its answers, and OPENAI_API_KEY is not set")
    # Where the project lies, its entry point for lmms-eval is found, installed or not.
    places = [str(Path(find_spec("trainer").origin).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    follow(harness.command(task, folder), environment, folder / "log.txt")
    if scores := read_scores(folder, task):
        return Outcome(scores)
    return Outcome({}, find_reason((folder / "log.txt").read_text(encoding="utf-8", errors="replace")))


def follow(command: list[str], environment: Mapping[str, str], log: Path) -> None:
    """Runs a command; what it says goes to a file and, with its progress bars, to a terminal."""
    with (
        log.open("wb") as file,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        try:
            while said := process.stdout.read1():
                file.write(said)
                if sys.stderr.isatty():
                    sys.stderr.buffer.write(said)
                    sys.stderr.flush()
        except BaseException:  # an interruption of this process alone
            process.terminate()
            raise


def lacks_judge() -> bool:
    return os.environ.get("API_TYPE", "openai") == "openai" and not os.environ.get("OPENAI_API_KEY")


def read_scores(folder: Path, task: str) -> dict[str, float]:
    """The numbers of the newest results in a task's folder; none where there are no results."""
    for path in sorted(folder.glob("*/*_results.json"), reverse=True):
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"][task]
        except (ValueError, KeyError):  # cut by an interruption
            continue
        numbers = {name.partition(",")[0]: value for name, value in found.items() if "_stderr" not in name}
        return {name: float(value) for name, value in numbers.items() if type(value) in (int, float)}
    return {}


def find_reason(log: str) -> str:
    """Why a run of lmms-eval has no results: the last error in what it said, as one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    errors = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception|Interrupt)\b:? ?.*)$", plain, re.MULTILINE)
    errors = [line for line in errors if "RetryError" not in line] or errors  # it says nothing of its cause
    lines = errors or plain.strip().splitlines() or ["it said nothing"]
    sentence = re.split(r"\. (?=[A-Z])", " ".join(lines[-1].split()))[0]
    return sentence[:200].replace("|", "/")


def benchmark_table(outcomes: Mapping[str, Outcome]) -> str:
    """
    A row for each task, the paper's numbers beside those of its seven benchmarks.

    Args:
        outcomes (`Mapping[str, Outcome]`): by task.

    Returns:
        `str`: markdown; below it, why tasks were not run.
    """
    lines = [f"| benchmark | measure | here | {' | '.join(ROWS)} |", "|---|---|" + "---:|" * (1 + len(ROWS))]
    for task, outcome in outcomes.items():
        lines += rows_of(task, outcome)
    missing = [f"- `{task}`: {outcome.reason}" for task, outcome in outcomes.items() if not outcome.scores]
    if missing:
        lines += ["", "Not run:", "", *missing]
    return "\n".join(lines)


def rows_of(task: str, outcome: Outcome) -> list[str]:
    if task not in BENCHMARKS:
        scores = {name: f"{value:.4f}" for name, value in outcome.scores.items()} or {"": "not run"}
        return [f"| {task} | {name} | {value} |" + " |" * len(ROWS) for name, value in scores.items()]
    benchmark = BENCHMARKS[task]
    here = f"{score_of(task, outcome.scores):.2f}" if outcome.scores else "not run"
    paper = " | ".join(map(str, benchmark.paper))
    return [f"| {benchmark.name} | {' + '.join(benchmark.metrics)} of `{task}` | {here} | {paper} |"]


def score_of(task: str, scores: Mapping[str, float]) -> float:
    """The paper's number of a benchmark, from lmms-eval's."""
    benchmark = BENCHMARKS[task]
    return benchmark.scale * sum(scores[metric] for metric in benchmark.metrics)

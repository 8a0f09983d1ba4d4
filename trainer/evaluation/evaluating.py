# SPDX-License-Identifier: Apache-2.0
"""A model's evaluation on tasks: asked in one or several processes, measured by the first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from modeling_langbridge import LangBridgeConfig
from modeling_langbridge.adapter.kinds import read_model_config
from modeling_langbridge.adapter.loading import open_config, open_model
from modeling_langbridge.utils.outputs import locked

from .answer_files import SETTINGS, AnswerFiles, claim, digest_checkpoint, digest_questions, require_own
from .answering import answer_all
from .controls import ANOTHER, NONE, OWN, SHOWN, WORDS, find_others, with_other_images, with_words, without_images
from .decoding import GREEDY, Decoding
from .examples import with_examples
from .intervals import Measure
from .questions import Data, Question, check_pictures
from .retrieval_task import require_langbridge, retrieve
from .tasks import TASKS, by_picture
from .word_bias import require_readable_words


@dataclass(frozen=True)
class Plan:
    """
    What is asked.

    Args:
        data (`dict[str, Data]`): by the name of the task.
        controls (`bool`, *optional*): also without the picture, with another one, and with its words as text.
        max_samples (`int`, *optional*): only the first questions of each task.
        batch_size (`int`, *optional*, defaults to 16): how many questions at a time.
        prompts (`dict[str, str]`, *optional*): by task, what is asked in the place of the task's own prompt.
        max_new_tokens (`int`, *optional*): length at which answers are cut; by default the task's.
        num_fewshot (`int`, *optional*): how many examples come before each question.
        fewshot_data (`dict[str, Data]`, *optional*): by task, where the examples are; the first rows are taken.
        decoding ([`Decoding`], *optional*): how answers are written.
        dtype (`str`, *optional*): of the weights; the checkpoint's by default.
        trust_remote_code (`bool`, *optional*): whether the model and the processor may bring their own code.
    """

    data: dict[str, Data]
    controls: bool = False
    max_samples: int | None = None
    batch_size: int = 16
    prompts: dict[str, str] = field(default_factory=dict)
    max_new_tokens: int | None = None
    num_fewshot: int | None = None
    fewshot_data: dict[str, Data] = field(default_factory=dict)
    decoding: Decoding = GREEDY
    dtype: str | None = None
    trust_remote_code: bool = False

    def read(self, task: str) -> list[Question]:
        """A task's questions, all that the data have, each with the examples; retrieval, which asks none, has none."""
        read, prompt = TASKS[task].read, self.prompts.get(task, TASKS[task].prompt)
        questions = read(self.data[task], prompt)
        if self.num_fewshot is None or task == "retrieval":
            return questions
        source = self.fewshot_data[task]
        return with_examples(questions, read(source, prompt), self.num_fewshot, source.path)

    def describe(self, task: str, questions: list[Question]) -> dict[str, Any]:
        """What later runs must ask as well, to go on with the answers."""
        fixed = questions[: self.max_samples] if task == "retrieval" else questions  # photos compete with one another
        return {
            "data": self.data[task].path,
            "questions": digest_questions([*fixed[0].examples, *fixed]),
            "num_fewshot": len(fixed[0].examples) or None,
            "max_new_tokens": self.length(task),
            **asdict(self.decode(task)),
        }

    def length(self, task: str) -> int:
        return self.max_new_tokens or TASKS[task].max_new_tokens

    def decode(self, task: str) -> Decoding:
        """How a task's answers are written; retrieval has none."""
        return GREEDY if task == "retrieval" else self.decoding


@dataclass
class Found:
    """
    What one task found: measures by what was shown, how many questions of how many, each after how many examples, and
    images per second.
    """

    measures: dict[str, dict[str, Measure]]
    asked: int
    of: int
    examples: int
    speed: float = field(default=0.0)


def evaluate(model_name: str, plan: Plan, output_dir: Path) -> dict[str, Found]:
    """
    Asks a model what a plan says, and goes on with the answers that are there already.

    Args:
        model_name (`str`): a checkpoint, by folder or Hub id.
        plan ([`Plan`]): what is asked.
        output_dir (`Path`): a folder for each task is made in it.

    Returns:
        `dict[str, Found]`: by task; an empty one in all processes but the first.

    Raises:
        `ValueError`: the model, the data, an image or the folder is not right; the message names it.
    """
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))
    if "caption" in plan.data:
        from . import caption_metrics  # noqa: F401  # an extra, missed before the work
    check_output_dir(output_dir)
    everything = {task: plan.read(task) for task in plan.data}
    questions = {task: asked[: plan.max_samples] for task, asked in everything.items()}
    others: dict[str, dict[str, Any]] = {}
    if plan.controls:
        # Of all questions, so that more samples leave the pictures of the first as they were; but for retrieval.
        others = {task: find_others((questions if task == "retrieval" else everything)[task]) for task in plan.data}
    if state.is_main_process:
        for task, asked in questions.items():
            shown = [with_other_images(question, others[task]) for question in asked] if plan.controls else []
            check_pictures([*asked, *shown, *asked[0].examples], plan.data[task].path)
            if len({question.picture for question in asked}) < 2:
                raise ValueError(f"{plan.data[task].path} has 1 picture: intervals need questions about two or more.")
    model, processor = open_evaluated(model_name, plan, state.device)
    if "retrieval" in plan.data:
        require_langbridge(model)
    if plan.decoding.word_bias is not None:
        require_readable_words(model)
    found = {}
    with writing(output_dir, state):
        if state.is_main_process:
            checkpoint = {"model": model_name, "checkpoint": digest_checkpoint(model_name), "dtype": plan.dtype}
            settings = {task: {**checkpoint, **plan.describe(task, everything[task])} for task in plan.data}
            for task in plan.data:  # all of them before any is written
                require_own(output_dir / task, settings[task])
            for task in plan.data:
                claim(output_dir / task, settings[task])
        state.wait_for_everyone()
        for task, asked in questions.items():
            speed = ask_task(model, processor, task, asked, others.get(task), plan, output_dir / task, state)
            state.wait_for_everyone()
            if state.is_main_process:
                files = AnswerFiles(output_dir / task)
                measures, examples = measure(task, asked, files), len(asked[0].examples)
                found[task] = Found(measures, len(asked), len(everything[task]), examples, speed)
    return found


def check_output_dir(output_dir: Path) -> None:
    """Raises `ValueError` where a folder holds something else than evaluations."""
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output_dir {output_dir} is a file: name a folder.")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not any(output_dir.glob(f"*/{SETTINGS}")):
        raise ValueError(f"--output_dir {output_dir} exists and holds no evaluation: name another folder.")


@contextmanager
def writing(output_dir: Path, state: PartialState) -> Iterator[None]:
    """Keeps a second run out of the folder while the block lasts."""
    if not state.is_main_process:
        yield
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    with locked(output_dir, output_dir / ".lock"):
        yield


def open_evaluated(name: str, plan: Plan, device: torch.device) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A LangBridge, or any vision-language model that transformers, or its own code, knows; padded on the left."""
    options: dict[str, Any] = {"device_map": {"": device}}
    if plan.dtype is not None:
        options["dtype"] = getattr(torch, plan.dtype)
    if is_ours(name) and not plan.trust_remote_code:
        model, processor = open_model(name, **options)
    else:
        trust = {"trust_remote_code": plan.trust_remote_code}
        model = AutoModelForImageTextToText.from_pretrained(name, **trust, **options)
        processor = AutoProcessor.from_pretrained(name, **trust)
    processor.tokenizer.padding_side = "left"
    return model.eval(), processor


def is_ours(name: str) -> bool:
    """Whether a checkpoint is a LangBridge; one that is no vision-language model at all is refused by name."""
    try:
        content = read_model_config(name)
    except OSError:
        content = {}
    if "vision_config" not in content and "auto_map" not in content:
        open_config(name)
    return content.get("model_type") == LangBridgeConfig.model_type


def ask_task(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    task: str,
    questions: list[Question],
    others: Mapping[str, Any] | None,
    plan: Plan,
    folder: Path,
    state: PartialState,
) -> float:
    """Asks this process's share of a task's questions, and gives the images per second of the pictures themselves."""
    files = AnswerFiles(folder, state.process_index)
    state.wait_for_everyone()  # before another process appends to what this one reads
    if task == "retrieval":
        kinds = (OWN,) if others is None else (OWN, NONE, ANOTHER)
        done = all((kind, question.key) in files.answered for kind in kinds for question in questions)
        if state.is_main_process and not done:
            retrieve(model, processor, questions, others, files)
        return 0.0
    share = questions[state.process_index :: state.num_processes]
    options = {"max_new_tokens": plan.length(task), "batch_size": plan.batch_size}
    decoding = plan.decode(task)
    seen, unseen = ({**options, "decoding": of} for of in (decoding, decoding.without_images))
    speed = answer_all(model, processor, share, OWN, files, **seen)
    if others is not None:
        answer_all(model, processor, [without_images(question) for question in share], NONE, files, **unseen)
        changed = [with_other_images(question, others) for question in share]
        answer_all(model, processor, changed, ANOTHER, files, **seen)
        if is_made_of_words(model):
            answer_all(model, processor, with_words(share, model, processor), WORDS, files, **unseen)
    return speed * state.num_processes


def is_made_of_words(model: PreTrainedModel) -> bool:
    config = model.config
    return config.model_type == LangBridgeConfig.model_type and config.adapter_type == "langbridge"


def measure(task: str, questions: list[Question], files: AnswerFiles) -> dict[str, dict[str, Measure]]:
    """Measures a task's answers, by what was shown, and writes all of them with their scores to one file."""
    found, scored = {}, []
    for shown in SHOWN:
        if (shown, questions[0].key) not in files.answered:
            continue
        # A control's picture is that of the question, so that it is paired with the picture itself.
        rows = [{**files.answered[shown, question.key], "picture": question.picture} for question in questions]
        measures = TASKS[task].measure(rows)
        found[shown] = by_picture(measures, rows)
        name, first = next(iter(measures.items()))
        scores = first.combine(*first.columns())
        scored += [{**row, "score": {name: float(score)}} for row, score in zip(rows, scores, strict=True)]
    files.write_scored(scored)
    return found

# SPDX-License-Identifier: Apache-2.0
"""LangBridge as a model of lmms-eval, which finds it by the entry point that setup.py declares.

    lmms-eval --model langbridge --model_args pretrained=my-langbridge --tasks pope --batch_size 16

Only lmms-eval imports this file; `scripts/evaluate_all.sh` makes an environment that has it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.utils import Collator
from tqdm import tqdm

from .answer_files import AnswerFiles
from .answering import row_of
from .continuations import answer_until, continuation_losses
from .evaluating import Plan, open_evaluated
from .questions import Question


MANIFEST = ModelManifest(model_id="langbridge", simple_class_path=f"{__name__}.LangBridgeForLmmsEval")


class LangBridgeForLmmsEval(lmms):
    """
    A LangBridge, or another vision-language model of transformers, as lmms-eval asks it.

    Args:
        pretrained (`str`): a checkpoint, by folder or Hub id.
        batch_size (`int`, *optional*, defaults to 1): questions at a time; in float32 the answers are the same at any.
        device (`str`, *optional*): this process's own by default.
        dtype (`str`, *optional*): of the weights; the checkpoint's by default.
        trust_remote_code (`bool`, *optional*): whether the model and the processor may bring their own code.
        answers (`str`, *optional*): A folder that each batch's answers are written to, and found in again.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int = 1,
        device: str | None = None,
        dtype: str | None = None,
        trust_remote_code: bool = False,
        answers: str | None = None,
    ):
        super().__init__()
        self.batch_size = int(batch_size)
        self.device = torch.device(device or PartialState().device)
        plan = Plan(data={}, dtype=dtype, trust_remote_code=trust_remote_code)
        self.model, self.processor = open_evaluated(pretrained, plan, self.device)
        self.answers = None if answers is None else Path(answers)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answers to questions about images, in their order."""

        def answer(questions: list[Question], options: list[dict[str, Any]]) -> list[str]:
            return answer_until(self.model, self.processor, questions, options[0])

        asked = [request.args for request in requests]
        return self.ask(asked, answer, same=lambda arguments: arguments[1])  # one batch has one set of options

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """For each given answer its loss, which lmms-eval wants the smallest of, and whether it is the greedy one."""

        def measure(questions: list[Question], targets: list[str]) -> list[tuple[float, bool]]:
            return continuation_losses(self.model, self.processor, questions, targets)

        asked = []
        for text, target, get_images, key, task, split in (request.args for request in requests):
            given = target(self.task_dict[task][split][key]) if callable(target) else target
            asked.append((text, given, get_images, key, task, split))
        found = self.ask(asked, measure, same=lambda arguments: {})
        return [GenerationResult(text=tuple(pair)) for pair in found]  # lmms-eval 0.7.3 makes a string of a bare tuple

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("Tasks of several rounds are not asked here: choose tasks of one question each.")

    def ask(self, requests: list[tuple], answer: Callable[[list[Question], list], list], same: Callable) -> list:
        """Asks batch by batch, the longest texts first, and gives the answers in the requests' order."""
        files = None if self.answers is None else AnswerFiles(self.answers, self.rank)
        collator = Collator(requests, lambda arguments: -len(arguments[0]), group_fn=same, grouping=True)
        found: list[Any] = []
        with tqdm(total=len(requests), desc="answering", unit=" questions", disable=self.rank != 0) as progress:
            for batch in collator.get_batched(n=self.batch_size, batch_fn=None):
                found += answer_batch(self.read_questions(batch), batch, answer, files)
                progress.update(len(batch))
        return collator.get_original(found)

    def read_questions(self, batch: list[tuple]) -> list[Question]:
        questions = []
        for text, _, get_images, key, task, split in batch:
            images = get_images(self.task_dict[task][split][key]) if get_images else None
            questions.append(Question(key, list(images or []), text, []))
        return questions


def answer_batch(
    questions: list[Question],
    batch: list[tuple],
    answer: Callable[[list[Question], list], list],
    files: AnswerFiles | None,
) -> list:
    """A batch's answers: those that the files have of all of it, or new ones, which are written there."""
    hows = [arguments[1] for arguments in batch]
    if files is None:
        return answer(questions, hows)
    names = [json.dumps([task, split, how]) for how, (*_, task, split) in zip(hows, batch, strict=True)]
    rows = [files.answered.get((name, question.key)) for name, question in zip(names, questions, strict=True)]
    if all(row and row["prompt"] == question.prompt for row, question in zip(rows, questions, strict=True)):
        return [row["answer"] for row in rows]
    answers = answer(questions, hows)
    files.write([row_of(question, *row) for question, *row in zip(questions, names, answers, strict=True)])
    return answers

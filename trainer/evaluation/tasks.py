# SPDX-License-Identifier: Apache-2.0
"""The built-in tasks: what is read, what is asked, and how answers are measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..data.samples import CAPTION_QUESTION
from .intervals import Measure, mean_of, ratio
from .questions import (
    SHORT_ANSWER,
    Data,
    Question,
    read_caption_questions,
    read_vqa_questions,
    read_yes_no_questions,
)
from .vqa_scores import vqa_accuracy
from .yes_no_scores import measure_yes_no


@dataclass(frozen=True)
class Task:
    """
    A task.

    Args:
        read (`Callable`): reads its questions from [`Data`] and a prompt.
        measure (`Callable`): measures rows with `answer` and `references`, a row of statistics for each; the first
            measure is the one that counts.
        prompt (`str`): what is asked, or what follows a question.
        max_new_tokens (`int`): length at which an answer is cut.
    """

    read: Callable[[Data, str], list[Question]]
    measure: Callable[[Sequence[dict[str, Any]]], dict[str, Measure]]
    prompt: str
    max_new_tokens: int


def measure_caption_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    from .caption_metrics import measure_captions  # pycocoevalcap is an extra

    keys = [str(row["key"]) for row in rows]
    answers, references = [row["answer"] for row in rows], [row["references"] for row in rows]
    return measure_captions(dict(zip(keys, answers, strict=True)), dict(zip(keys, references, strict=True)))


def measure_vqa_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    scores = [vqa_accuracy(row["answer"], row["references"]) for row in rows]
    return {"VQA accuracy": mean_of(torch.tensor(scores))}


def measure_yes_no_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    return measure_yes_no([row["answer"] for row in rows], [row["references"][0] for row in rows])


def measure_retrieval_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    """An answer holds, for each recall, how many of a photo's queries found what they look for, and of how many."""
    return {
        recall: Measure(torch.tensor([row["answer"][recall] for row in rows], dtype=torch.float64), ratio)
        for recall in rows[0]["answer"]
    }


TASKS = {
    "caption": Task(read_caption_questions, measure_caption_rows, CAPTION_QUESTION, 30),
    "vqa": Task(read_vqa_questions, measure_vqa_rows, SHORT_ANSWER, 10),
    "yes_no": Task(read_yes_no_questions, measure_yes_no_rows, SHORT_ANSWER, 10),
    "retrieval": Task(read_caption_questions, measure_retrieval_rows, "", 0),
}


def by_picture(measures: dict[str, Measure], rows: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    """Measures of rows with their statistics added up for each picture, in the order of the rows."""
    places = {picture: place for place, picture in enumerate(dict.fromkeys(row["picture"] for row in rows))}
    owner = torch.tensor([places[row["picture"]] for row in rows])

    def add_up(measure: Measure) -> Measure:
        sums = torch.zeros(len(places), measure.statistics.shape[1], dtype=torch.float64)
        return Measure(sums.index_add(0, owner, measure.statistics), measure.combine)

    return {name: add_up(measure) for name, measure in measures.items()}

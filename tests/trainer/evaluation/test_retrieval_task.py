# SPDX-License-Identifier: Apache-2.0
"""Retrieval as a task: the hits of each photo make the recalls of all."""

import pytest
import torch

from trainer.evaluation.questions import Question
from trainer.evaluation.retrieval import recall_both_ways
from trainer.evaluation.retrieval_task import count_hits
from trainer.evaluation.tasks import TASKS


def test_hits_of_photos_with_any_number_of_captions_make_the_recalls():
    numbers = [1, 3, 2, 2, 5, 1, 4, 2, 1, 3, 2, 4]
    questions = [Question(key, [f"{key}.png"], "", ["a dog"] * number) for key, number in enumerate(numbers)]
    fit = torch.rand(len(numbers), sum(numbers), generator=torch.Generator().manual_seed(0))
    owner = torch.repeat_interleave(torch.tensor(numbers))
    recall = recall_both_ways(fit, owner)
    rows = [{"answer": hits} for hits in count_hits(fit, questions)]
    measures = TASKS["retrieval"].measure(rows)
    assert len(measures) == 6
    for name, measure in measures.items():
        way, _, k = name.partition(", recall@")
        assert measure.value() == pytest.approx(recall[way][k]), name

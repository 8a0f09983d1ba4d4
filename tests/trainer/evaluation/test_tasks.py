# SPDX-License-Identifier: Apache-2.0
"""Tasks: what is measured of rows is added up for each picture."""

import torch

from trainer.evaluation.tasks import TASKS, by_picture


def test_questions_about_one_picture_are_one_unit_of_an_interval():
    answers = {"a.png": ["yes", "yes", "no"], "b.png": ["no"]}
    rows = [
        {"picture": picture, "answer": answer, "references": ["yes"]}
        for picture, given in answers.items()
        for answer in given
    ]
    found = by_picture(TASKS["vqa"].measure(rows), rows)["VQA accuracy"]
    assert found.statistics.tolist() == [[2, 3], [0, 1]] and found.value() == 0.5
    turned = by_picture(TASKS["vqa"].measure(rows[::-1]), rows[::-1])["VQA accuracy"]
    assert turned.statistics.tolist() == [[0, 1], [2, 3]]


def test_many_questions_about_two_pictures_leave_as_much_doubt_as_two():
    rows = [
        {"picture": str(place % 2), "answer": "yes", "references": [("yes", "no")[place % 2]]} for place in range(60)
    ]
    measures = TASKS["yes_no"].measure(rows)
    alone, grouped = measures["accuracy"].estimate(), by_picture(measures, rows)["accuracy"].estimate()
    assert grouped.low == 0 and grouped.high == 1 and alone.high - alone.low < 0.5
    assert torch.equal(by_picture(measures, rows)["recall"].statistics, torch.tensor([[30.0, 30], [0, 0]]).double())

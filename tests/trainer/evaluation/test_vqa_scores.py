# SPDX-License-Identifier: Apache-2.0
"""Short answers: the VQA challenge's normalisation and its accuracy among people who do not agree."""

import pytest

from trainer.evaluation.vqa_scores import normalise, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes.", "yes"),
        ("The red  Ball", "red ball"),
        ("a dog and an apple", "dog and apple"),
        ("two", "2"),
        ("None", "0"),
        ("ten men", "10 men"),
        ("eleven", "eleven"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("dont know", "don't know"),
        ("it's", "it's"),
        ("black-white", "black white"),
        ("black - white", "black white"),
        ("garbage_bin", "garbage bin"),
        ("book, scissor, papers", "book scissor papers"),
        ("left/right", "left right"),
        ("what?!", "what"),
        ("", ""),
    ],
)
def test_answers_are_compared_in_their_normal_form(answer, normal):
    assert normalise(answer) == normal


@pytest.mark.parametrize(("agree", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_of_ten_answers_three_that_agree_make_one_right_on_average_over_leaving_one_out(agree, accuracy):
    people = ["red"] * agree + [f"colour {number}" for number in range(10 - agree)]
    assert vqa_accuracy("Red.", people) == pytest.approx(accuracy)


def test_of_fewer_answers_one_is_enough():
    assert vqa_accuracy("the table", ["table"]) == 1
    assert vqa_accuracy("2", ["three", "Two"]) == 1
    assert vqa_accuracy("tables", ["table"]) == 0


def test_an_empty_answer_is_wrong():
    assert vqa_accuracy("", ["table"]) == 0

# SPDX-License-Identifier: Apache-2.0
"""Yes/no questions: POPE's rule, its five numbers, and the answers that are neither."""

import pytest

from trainer.evaluation.yes_no_scores import measure_yes_no, says_yes


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes", True),
        ("yes, there is no doubt", False),
        ("No.", False),
        ("no, there is not", False),
        ("There is not a dog.", False),
        ("Yes. No dog is there.", True),
        ("A dog stands nowhere near", True),
        ("", True),
    ],
)
def test_popes_rule(answer, yes):
    assert says_yes(answer) is yes


def test_the_numbers_of_pope():
    answers = ["yes", "yes", "yes", "no", "No.", "perhaps"]
    labels = ["yes", "no", "yes", "yes", "no", "no"]
    values = {name: measure.value() for name, measure in measure_yes_no(answers, labels).items()}
    assert values == {
        "accuracy": pytest.approx(3 / 6),
        "precision": pytest.approx(2 / 4),
        "recall": pytest.approx(2 / 3),
        "F1": pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3)),
        "yes share": pytest.approx(4 / 6),
        "unclear": pytest.approx(1 / 6),
    }


def test_a_model_that_never_says_yes_has_a_precision_and_an_f1_of_0_with_intervals():
    measures = measure_yes_no(["no"] * 4, ["yes", "no"] * 2)
    assert measures["precision"].estimate() == (0, 0, 0) == measures["F1"].estimate()
    assert measures["accuracy"].value() == 0.5

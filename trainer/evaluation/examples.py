# SPDX-License-Identifier: Apache-2.0
"""Examples before a question, with their right answers: small language models follow them, not instructions."""

from collections.abc import Sequence
from dataclasses import replace

from .questions import Question, name_image


def with_examples(
    questions: Sequence[Question], candidates: Sequence[Question], count: int, source: str
) -> list[Question]:
    """
    Puts the same examples before all questions.

    Args:
        questions (`Sequence[Question]`): what is asked.
        candidates (`Sequence[Question]`): the first of them become examples.
        count (`int`): how many.
        source (`str`): the candidates' file, for messages.

    Returns:
        `list[Question]`: the questions with their examples.

    Raises:
        `ValueError`: there are too few candidates, or an example's picture is asked about.
    """
    if len(candidates) < count:
        raise ValueError(f"--num_fewshot is {count}, but {source} has {len(candidates)} rows for examples.")
    examples = tuple(candidates[:count])
    asked = {name_image(image) for question in questions for image in question.images}
    shown = [name_image(image) for example in examples for image in example.images]
    if both := sorted(asked.intersection(shown)):
        raise ValueError(
            f"The example {both[0]} of {source} is asked about, too: give --fewshot_data with other pictures."
        )
    return [replace(question, examples=examples) for question in questions]

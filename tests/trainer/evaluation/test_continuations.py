# SPDX-License-Identifier: Apache-2.0
"""What lmms-eval asks of a model: free answers by a task's options, and the loss of given answers."""

import pytest
import torch
from tiny_parts import make_image

from trainer.evaluation.answering import prepare_questions
from trainer.evaluation.continuations import answer_until, continuation_losses
from trainer.evaluation.questions import Question


@pytest.fixture
def talkative(model, processor):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)  # fresh weights are so small that all pictures look alike
    return model.eval(), processor


QUESTIONS = [
    Question(0, [make_image("red", (48, 40))], "what is it?", []),
    Question(1, [make_image("blue", (60, 44)), make_image("green")], "a dog or a boat in the blue water? " * 2, []),
    Question(2, [], "what?", []),
]


def test_answers_do_not_depend_on_the_batch(talkative):
    options = {"max_new_tokens": 8, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
    together = answer_until(*talkative, QUESTIONS, options)
    assert together == [answer_until(*talkative, [question], options)[0] for question in QUESTIONS]
    assert len(set(together)) == 3


def test_an_answer_ends_before_a_stopping_sequence(talkative):
    whole = answer_until(*talkative, QUESTIONS[:1], {"max_new_tokens": 8})[0]
    ending = whole[4:6]
    assert ending.strip() and whole.index(ending) > 0
    for until in (ending, ["never said", ending], [ending, ""]):
        cut = answer_until(*talkative, QUESTIONS[:1], {"max_new_tokens": 8, "until": until})[0]
        assert cut == whole[: whole.index(ending)]


def test_answers_have_at_most_the_tokens_that_the_task_allows(talkative):
    steps = []
    talkative[0].register_forward_pre_hook(lambda *_: steps.append(1))
    for number in (2, 7):
        steps.clear()
        answer_until(*talkative, QUESTIONS[:1], {"max_new_tokens": number})
        assert len(steps) == number


def test_an_option_that_is_not_known_is_refused(talkative):
    with pytest.raises(
        ValueError, match="generation_kwargs has 'image_aspect_ratio', which is none of max_new_tokens"
    ):
        answer_until(*talkative, QUESTIONS, {"image_aspect_ratio": "pad"})


def test_losses_are_the_models_own_and_do_not_depend_on_the_batch(talkative):
    model, processor = talkative
    answers = [" a red ball", " boat", " the dog is in the water"]
    together = continuation_losses(model, processor, QUESTIONS, answers)
    for question, answer, (loss, _) in zip(QUESTIONS, answers, together, strict=True):
        assert continuation_losses(model, processor, [question], [answer])[0][0] == pytest.approx(loss, rel=1e-4)
        inputs = prepare_questions(processor, [question])
        target = processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ignored = torch.full_like(inputs["input_ids"], -100)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], target], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            own = model(**inputs, labels=torch.cat([ignored, target], 1)).loss
        assert own.item() == pytest.approx(loss, rel=1e-4)


def test_the_models_own_answer_is_the_greedy_one(talkative):
    model, processor = talkative
    for number in range(50):  # until it begins with a whole letter, not with a piece of one
        question = Question(number, [make_image("red")], "what? " * number, [])
        own = answer_until(model, processor, [question], {"max_new_tokens": 1})[0]
        if own and "\ufffd" not in own and len(processor.tokenizer(own, add_special_tokens=False)["input_ids"]) == 1:
            break
    else:
        pytest.fail("no question has an answer of one token")
    found = continuation_losses(model, processor, [question] * 2, [own, f"{own}red ball"])
    assert [greedy for _, greedy in found] == [True, False]
    assert found[0][0] < found[1][0]


def test_an_empty_continuation_is_refused(talkative):
    with pytest.raises(ValueError, match="A continuation is empty"):
        continuation_losses(*talkative, QUESTIONS[:1], [""])

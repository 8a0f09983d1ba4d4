# SPDX-License-Identifier: Apache-2.0
"""Examples before a question: earlier turns with pictures and right answers, of which none is asked about."""

from dataclasses import replace

import pytest
import torch
from tiny_parts import make_image

from trainer.evaluation.answering import prepare_questions
from trainer.evaluation.controls import with_other_images, with_words, without_images
from trainer.evaluation.examples import with_examples
from trainer.evaluation.questions import Question


RED, BLUE = (Question(key, [f"{name}.png"], "what?", [f"a {name} ball"]) for key, name in enumerate(("red", "blue")))
ASKED = Question(0, ["green.png"], "where?", ["on the grass"])


def test_examples_are_the_turns_before_the_question(processor):
    images = [make_image(colour) for colour in ("red", "blue", "yellow", "green")]
    examples = (
        Question(0, images[:1], "what?", ["a ball", "a dog", "a dog"]),
        Question(1, images[1:3], "which?", ["a boat"]),
    )
    question = Question(0, images[3:], "where?", ["on the grass"], examples)
    inputs = prepare_questions(processor, [question])
    (text,) = processor.tokenizer.batch_decode(inputs["input_ids"])
    places = [text.index(part) for part in ("what?", "a dog", "which?", "a boat", "where?")]
    assert places == sorted(places) and "a ball" not in text and "on the grass" not in text
    pictures = [text[:place].count("<image>") // processor.num_image_tokens for place in (*places[::2], len(text))]
    assert pictures == [1, 3, 4, 4]
    assert torch.equal(inputs["pixel_values"], processor.image_processor(images, return_tensors="pt")["pixel_values"])


def test_the_first_candidates_come_before_every_question():
    asked = [ASKED, replace(ASKED, key=1, images=[])]
    found = with_examples(asked, [RED, BLUE], 1, "rows.jsonl")
    assert [question.examples for question in found] == [(RED,)] * 2
    assert [replace(question, examples=()) for question in found] == asked


def test_an_example_is_never_asked():
    with pytest.raises(ValueError, match=r"The example blue.png of rows.jsonl is asked about"):
        with_examples([ASKED, BLUE], [RED, BLUE], 2, "rows.jsonl")
    assert with_examples([ASKED, BLUE], [RED, BLUE], 1, "rows.jsonl")
    with pytest.raises(ValueError, match=r"--num_fewshot is 3, but rows.jsonl has 2 rows"):
        with_examples([ASKED], [RED, BLUE], 3, "rows.jsonl")


def test_controls_treat_examples_as_the_question_but_for_another_picture():
    (question,) = with_examples([ASKED], [RED], 1, "rows.jsonl")
    assert without_images(question).examples == (replace(RED, images=[]),)
    assert with_other_images(question, {"green.png": "blue.png"}).examples == (RED,)


def test_examples_have_their_own_words_as_text(model, processor):
    question = replace(ASKED, images=[make_image("green")], examples=(replace(RED, images=[make_image("red")]),))
    (told,) = with_words([question], model, processor)
    (example,) = told.examples
    for one, prompt in ((told, "where?"), (example, "what?")):
        assert (
            one.images == [] and one.prompt.startswith("The picture shows: ") and one.prompt.endswith(f".\n{prompt}")
        )

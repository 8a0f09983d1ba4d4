# SPDX-License-Identifier: Apache-2.0
"""Answers in which the words of the images are likelier: which words, until when, and for whom not."""

from dataclasses import replace

import pytest
import torch
from tiny_parts import make_image
from tiny_training import COLOURS
from wordy_models import compose

from trainer.evaluation.answering import answer, conversation_of, prepare_questions
from trainer.evaluation.decoding import Decoding
from trainer.evaluation.questions import Question
from trainer.evaluation.word_bias import WordBiasLogitsProcessor, first_tokens_of_words, images_asked_about


BIAS = Decoding(word_bias=2.0)


@pytest.fixture
def wordy(vision, text):
    """A model of 4 words an image, which prefers other words to these."""
    model, processor = compose(vision, text, coefficient_activation="softmax", words_per_image=4)
    processor.tokenizer.padding_side = "left"
    return model.eval(), processor


def ask_about(number: int, prompt: str = "what?") -> Question:
    return Question(number, [make_image(COLOURS[number % 4], (48, 40 + number))], prompt, ["a dog"])


def test_each_row_has_its_own_words_until_they_are_written_and_the_prompt_does_not_count():
    processor = WordBiasLogitsProcessor([[1, 2], [3]], 2.0, prompt_length=2)
    # Two beams of each row; the first two tokens are the prompt's.
    input_ids = torch.tensor([[1, 2, 0], [0, 0, 2], [3, 3, 3], [0, 0, 1]])
    scores = torch.zeros(4, 5)
    expected = torch.tensor([[0, 2.0, 2, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 2, 0]])
    torch.testing.assert_close(processor(input_ids, scores), expected)
    torch.testing.assert_close(scores, torch.zeros(4, 5))


@torch.no_grad()
def test_the_words_are_those_that_the_language_model_reads(wordy):
    model, processor = wordy
    image = make_image(COLOURS[1], (48, 52))
    pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    read = model.get_image_features(pixels).pooler_output[0]  # (words, d)
    [ids] = first_tokens_of_words(model, processor, [image])
    assert len(set(ids)) == 4
    torch.testing.assert_close(model.get_input_embeddings()(torch.tensor(ids)), read)


@torch.no_grad()
def test_an_answer_is_what_the_raised_logits_say(wordy):
    model, processor = wordy
    [words] = first_tokens_of_words(model, processor, ask_about(0).images)
    question = ask_about(0, f"is it{processor.tokenizer.decode(words)}?")  # what is asked is not written yet
    inputs, written = prepare_questions(processor, [question]), []
    for _ in range(6):
        ids = torch.cat([inputs["input_ids"], torch.tensor([written], dtype=torch.long)], dim=1)
        logits = model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0, -1]
        logits[[word for word in words if word not in written]] += 2.0
        logits[model.generation_config.suppress_tokens] = -torch.inf
        written.append(logits.argmax().item())
    plain = answer(model, processor, [question], 6)
    assert answer(model, processor, [question], 6, BIAS) == [processor.tokenizer.decode(written).strip()] != plain
    assert answer(model, processor, [question], 6, Decoding(word_bias=0.0)) == plain


def test_answers_are_the_same_at_any_batch_size_with_guidance_or_beams_and_beside_questions_without_images(wordy):
    questions = [ask_about(number, "what? " * (1 + number % 3)) for number in range(6)]
    questions[2] = replace(questions[2], images=[])
    questions[4] = replace(questions[4], examples=(questions[1],))
    others = {"guidance_scale": 1.5}, {"num_beams": 3}
    for decoding in (BIAS, *(Decoding(word_bias=2.0, **other) for other in others)):
        together = answer(*wordy, questions, 4, decoding)
        assert together == [answer(*wordy, [question], 4, decoding)[0] for question in questions]
        assert together != answer(*wordy, questions, 4)
    assert answer(*wordy, [questions[2]], 4, BIAS) == answer(*wordy, [questions[2]], 4)


def test_what_is_asked_about_is_the_last_image_not_those_of_examples(wordy):
    example, asked = ask_about(0), ask_about(1)
    shown = conversation_of(replace(asked, examples=(example,)))
    [image] = images_asked_about(shown)
    assert image.size == asked.images[0].size != example.images[0].size
    # In a dialogue the picture comes with the first question.
    assert images_asked_about([*shown, {"role": "assistant", "content": "a dog"}]) == [image]
    assert images_asked_about([{"role": "user", "content": [{"type": "text", "text": "what?"}]}]) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"coefficient_activation": "linear"}, "this adapter's coefficients are raw"),
        ({"adapter_type": "mlp"}, "needs an adapter made of words"),
    ],
)
def test_words_that_cannot_be_read_are_refused(vision, text, fields, sentence):
    model, processor = compose(vision, text, **fields)
    with pytest.raises(ValueError, match=sentence):
        answer(model, processor, [ask_about(0)], 4, BIAS)

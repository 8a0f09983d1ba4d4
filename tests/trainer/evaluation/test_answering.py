# SPDX-License-Identifier: Apache-2.0
"""The same answers at any batch size: left padding, any number and size of images, examples, any tokenizer."""

from dataclasses import replace

import pytest
import torch
from paths import DATA
from tiny_parts import make_image, save_language_model
from tiny_training import COLOURS
from transformers import AutoTokenizer
from wordy_models import compose

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.evaluation.answer_files import AnswerFiles
from trainer.evaluation.answering import answer, answer_all, prepare_questions
from trainer.evaluation.decoding import Decoding
from trainer.evaluation.questions import Question


TOKENIZERS = {
    "qwen2": "qwen2",
    "llama3": "llama3",
    "llama2": "llama2",
    "mistral": "mistral",
    "gpt2": "gpt2",
    "phi2": "phi",
    "smollm": "smollm",
}


def mixed_questions() -> list[Question]:
    """With one image, two and none, of different sizes, and prompts of different lengths."""
    prompts = ["what?", "what is in the picture? " * 3, "a dog or a boat in the blue water"]
    numbers = [1, 0, 2, 1, 1, 0]
    return [
        Question(
            key,
            [make_image(COLOURS[(key + image) % 4], (48 + 3 * key, 40 + image)) for image in range(numbers[key % 6])],
            prompts[key % 3],
            ["a dog"],
        )
        for key in range(16)
    ]


def assert_same_at_any_batch_size(model, processor) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)  # fresh weights are so small that all pictures look alike
    questions = mixed_questions()
    questions[8:] = [replace(question, examples=(questions[2], questions[3])) for question in questions[8:]]
    alone = [answer(model, processor, [question], 4)[0] for question in questions]
    assert answer(model, processor, questions, 4) == alone and len(set(alone)) > 6


def test_our_own_tokenizer(model, processor):
    assert_same_at_any_batch_size(model.eval(), processor)


@pytest.fixture
def wordy(vision, text):
    """A model of 4 words an image, whose language model minds them."""
    model, processor = compose(vision, text, coefficient_activation="softmax", words_per_image=4)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    processor.tokenizer.padding_side = "left"
    return model.eval(), processor


def test_a_batch_of_text_alone(model, processor):
    questions = [question for question in mixed_questions() if not question.images]
    assert answer(model, processor, questions, 4) == [answer(model, processor, [one], 4)[0] for one in questions]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real tokenizers: set LANGBRIDGE_DATA ({DATA} is not a folder)")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_real_tokenizer(name, vision, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(DATA / "tokenizers" / name)
    text = save_language_model(TOKENIZERS[name], tmp_path, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(text)
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    torch.manual_seed(0)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    assert_same_at_any_batch_size(model.eval(), processor)


def predict(model, inputs, written: list[int]) -> torch.Tensor:
    """The log-probabilities of the next token, `(vocabulary,)`, read anew from the beginning."""
    more = torch.tensor([written], dtype=torch.long)
    ids = torch.cat([inputs["input_ids"], more], dim=1)
    return model(input_ids=ids, pixel_values=inputs.get("pixel_values")).logits[0, -1].log_softmax(-1)


@torch.no_grad()
def test_answers_by_beams_are_the_same_at_any_batch_size_and_are_likelier(wordy):
    model, processor = wordy
    questions = mixed_questions()[:6]
    by_beams = answer(model, processor, questions, 4, Decoding(num_beams=3))
    assert by_beams == [answer(model, processor, [question], 4, Decoding(num_beams=3))[0] for question in questions]
    greedy = answer(model, processor, questions, 4)
    assert by_beams != greedy
    for question, one, other in zip(questions, by_beams, greedy, strict=True):
        inputs = prepare_questions(processor, [question])
        likely = [rate(model, inputs, processor.tokenizer.encode(f" {text}")) for text in (one, other)]
        assert likely[0] >= likely[1] - 1e-4
    with pytest.raises(ValueError, match="`guidance_scale` is for greedy answers"):
        Decoding(guidance_scale=3.0, num_beams=3)


def rate(model, inputs, written: list[int]) -> float:
    """The log-likelihood of an answer, of the words that may be written."""
    total = 0.0
    for place, token in enumerate(written):
        logits = predict(model, inputs, written[:place])
        logits[model.generation_config.suppress_tokens] = -torch.inf
        total += logits.log_softmax(-1)[token].item()
    return total


GUIDED = Decoding(guidance_scale=3.0)


@torch.no_grad()
def test_a_guided_answer_is_drawn_away_from_the_one_without_the_image(wordy):
    model, processor = wordy
    question = mixed_questions()[0]
    inputs = prepare_questions(processor, [question])
    blind = prepare_questions(processor, [replace(question, images=[])])
    written: list[int] = []
    for _ in range(5):
        seen, unseen = predict(model, inputs, written), predict(model, blind, written)
        guided = unseen + 3 * (seen - unseen)
        guided[model.generation_config.suppress_tokens] = -torch.inf
        written.append(guided.argmax().item())
    plain = answer(model, processor, [question], 5)
    assert answer(model, processor, [question], 5, GUIDED) == [processor.tokenizer.decode(written).strip()] != plain
    assert answer(model, processor, [question], 5, Decoding(guidance_scale=1.0)) == plain


def test_guided_answers_are_the_same_at_any_batch_size_also_beside_questions_without_images(wordy):
    questions = mixed_questions()
    questions[8:] = [replace(question, examples=(questions[2], questions[3])) for question in questions[8:]]
    together = answer(*wordy, questions, 4, GUIDED)
    assert together == [answer(*wordy, [question], 4, GUIDED)[0] for question in questions]
    assert together != answer(*wordy, questions, 4)
    assert answer(*wordy, [questions[1]], 4, GUIDED) == answer(*wordy, [questions[1]], 4)  # nothing to keep closer to


def test_answers_are_written_batch_by_batch_and_only_what_is_missing_is_asked(model, processor, tmp_path, monkeypatch):
    asked: list[int] = []

    def note(model, processor, questions, max_new_tokens, decoding):
        asked.append(len(questions))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return [f"answer {question.key}" for question in questions]

    monkeypatch.setattr("trainer.evaluation.answering.answer", note)
    questions = mixed_questions()
    options = {"max_new_tokens": 4, "batch_size": 5}
    with pytest.raises(KeyboardInterrupt):
        answer_all(model, processor, questions, "its own picture", AnswerFiles(tmp_path), **options)
    files = AnswerFiles(tmp_path)
    assert [key for _, key in files.answered] == list(range(10))
    answer_all(model, processor, questions, "its own picture", files, **options)
    assert asked[2:] == [5, 5, 1]
    rows = AnswerFiles(tmp_path).answered
    assert [row["answer"] for row in rows.values()] == [f"answer {key}" for key in range(16)]
    assert rows["its own picture", 4]["references"] == ["a dog"]

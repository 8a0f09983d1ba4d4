# SPDX-License-Identifier: Apache-2.0
"""LangBridge-NeXT under evaluation: answers and words of images of different resolutions."""

import pytest
import torch
from tiny_parts import SENTENCES, make_image

from modeling_langbridge import LangBridgeNextForConditionalGeneration, LangBridgeNextProcessor, SharedVocabulary
from trainer.evaluation.answering import answer, prepare_questions
from trainer.evaluation.decoding import Decoding
from trainer.evaluation.questions import Question
from trainer.evaluation.semantic_arithmetic import read_tokens
from trainer.evaluation.word_scores import mean_tokens, photo_strengths, pool_photos


SIZES = [(90, 60), (40, 160), (64, 64), (10, 12), (300, 100)]
IMAGES = [
    make_image(colour, size) for size, colour in zip(SIZES, ["red", "blue", "green", "black", "red"], strict=True)
]


@pytest.fixture(scope="module")
def parts(vision, text):
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)
    torch.manual_seed(0)
    model = LangBridgeNextForConditionalGeneration.from_vision_text_pretrained(
        vision,
        text,
        SharedVocabulary.build([processor.tokenizer], SENTENCES),
        processor,
        projector_hidden_size=24,
        coefficient_activation="gated_softmax",
    )
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.model.vocabulary_head.weight):
            weight.mul_(20)  # so that answers depend on the image
    return model, processor


def test_answers_are_the_same_at_any_batch_size(parts):
    questions = [Question(key, [image], "what is in the picture?", ["a"]) for key, image in enumerate(IMAGES)]
    questions.append(Question(5, IMAGES[:2], "which is red?", ["a"]))
    questions.append(Question(6, [], "what is green?", ["a"]))
    assert answer(*parts, questions, 6) == [answer(*parts, [question], 6)[0] for question in questions]
    with torch.no_grad():
        together = first_logits(*parts, questions)
        alone = torch.cat([first_logits(*parts, [question]) for question in questions])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert all(not torch.allclose(one, other, rtol=0, atol=1e-3) for one, other in zip(alone, alone[1:], strict=False))


def test_words_that_are_likelier_are_each_photos_own(parts):
    questions = [Question(key, [image], "what is in the picture?", ["a"]) for key, image in enumerate(IMAGES)]
    questions.append(Question(5, IMAGES[:2], "which is red?", ["a"]))
    bias = Decoding(word_bias=1000.0)  # of embeddings this long, logits are far apart
    together = answer(*parts, questions, 6, bias)
    assert together == [answer(*parts, [question], 6, bias)[0] for question in questions]
    assert together != answer(*parts, questions, 6)


def first_logits(model, processor, questions) -> torch.Tensor:
    return model(**prepare_questions(processor, questions)).logits[:, -1]


def test_words_are_those_of_each_photo_alone(parts):
    model, processor = parts
    for measure, of in ((pool_photos, model.model), (photo_strengths, model.model), (mean_tokens, model)):
        together = measure(of, processor.image_processor, IMAGES)
        alone = torch.cat([measure(of, processor.image_processor, [image]) for image in IMAGES])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(together[0], together[1])


def test_photos_of_different_resolutions_are_not_added_patch_by_patch(parts):
    embeddings = parts[0].model.get_word_embeddings()
    read_tokens(*parts, embeddings, [(1, IMAGES[0]), (1, IMAGES[0])])
    with pytest.raises(ValueError, match="different numbers of visual tokens, by their resolution"):
        read_tokens(*parts, embeddings, [(1, IMAGES[0]), (1, IMAGES[1])])

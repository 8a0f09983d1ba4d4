# SPDX-License-Identifier: Apache-2.0
"""A language model's losses on captions after a photo's words: those of the same prompt written out as text."""

import pytest
import torch
from tiny_parts import make_image
from transformers import AutoModelForCausalLM

from experiments.flickr8k.word_losses import CaptionLosses
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data.captioned_photos import CaptionedPhoto


EXAMPLES = [CaptionedPhoto("1", make_image("red"), ["a dog runs", "a dog and a ball"])]
PHOTOS = [
    CaptionedPhoto("2", make_image("blue"), ["children play in the water", "two children", "the children in water"]),
    CaptionedPhoto("3", make_image("green"), ["a man", "a man rides a bike", "a man on a bike"]),
]


@pytest.fixture(scope="module")
def captions(vision, text) -> CaptionLosses:
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, words_per_image=3)
    torch.manual_seed(0)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision,
        text,
        list(range(100, 160)),
        processor=processor,
        projector_hidden_size=40,
        coefficient_activation="gated_softmax",
    )
    return CaptionLosses(model.eval(), processor, EXAMPLES, PHOTOS)


@pytest.fixture(scope="module")
def loss_of_text(captions, text):
    """The plain language model's loss on the last of several pieces of text or tokens."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(text), captions.processor.tokenizer

    @torch.no_grad()
    def loss(*pieces: str | list[int]) -> torch.Tensor:
        ids = [
            tokenizer(piece, add_special_tokens=False)["input_ids"] if isinstance(piece, str) else piece
            for piece in pieces
        ]
        labels = [-100] * sum(map(len, ids[:-1])) + ids[-1]
        return model(torch.tensor([sum(ids, [])]), labels=torch.tensor([labels])).loss

    return loss


def test_without_words_the_prompt_is_captions_alone(captions, loss_of_text):
    expected = [
        loss_of_text("Caption: a dog runs\n\n", "Caption:", f" {photo.captions[0]}") for photo in captions.photos
    ]
    torch.testing.assert_close(captions.measure(None, None), torch.stack(expected))


def test_the_words_of_people_stand_before_each_caption_as_text(captions, loss_of_text):
    shown = ("Words:", " dog ball", "\n", "Caption: a dog runs\n\n", "Words:")
    expected = [
        loss_of_text(*shown, " children two water", "\n", "Caption:", " children play in the water"),
        loss_of_text(*shown, " man bike rides", "\n", "Caption:", " a man"),
    ]
    with torch.no_grad():
        people = captions.words_of_people(EXAMPLES), captions.words_of_people(PHOTOS)
    torch.testing.assert_close(captions.measure(*people), torch.stack(expected))


def test_the_words_of_a_photo_are_those_that_the_adapter_weighs_most(captions, loss_of_text):
    def picked(photo: CaptionedPhoto) -> list[int]:
        pixel_values = captions.processor.image_processor(photo.image, return_tensors="pt")["pixel_values"]
        coefficients = captions.model.get_image_coefficients(pixel_values)  # (1, tokens, V), each patch's by its gate
        return captions.model.model.vocabulary_head.token_ids[coefficients[0].sum(0).topk(3).indices].tolist()

    with torch.no_grad():
        examples, own = captions.words_of_images(EXAMPLES), captions.words_of_images(PHOTOS)
        shown = ("Words:", picked(EXAMPLES[0]), "\n", "Caption: a dog runs\n\n", "Words:")
        expected = [loss_of_text(*shown, picked(photo), "\n", "Caption:", f" {photo.captions[0]}") for photo in PHOTOS]
    torch.testing.assert_close(captions.measure(examples, own), torch.stack(expected))


def test_batches_do_not_change_a_loss(captions):
    with torch.no_grad():
        examples, own = captions.words_of_images(EXAMPLES), captions.words_of_images(PHOTOS)
    torch.testing.assert_close(captions.measure(examples, own, batch_size=1), captions.measure(examples, own))

# SPDX-License-Identifier: Apache-2.0
"""Distillation: raw coefficients learn from images alone to give what words gave, and take their place."""

import pytest
import torch
from tiny_parts import SENTENCES, make_image
from transformers import TrainingArguments

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from trainer.distillation import distil


IMAGES = [make_image(colour, (30 + 3 * i, 60 - i)) for i in range(6) for colour in ("red", "blue", "green", "black")]


@pytest.fixture
def compose(vision, text):
    def compose(words_per_image=None, **fields):
        processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, words_per_image=words_per_image)
        vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, vocabulary, processor, projector_hidden_size=40, **fields
        )
        torch.manual_seed(0)
        for parameter in (*model.model.multi_modal_projector.parameters(), *model.model.vocabulary_head.parameters()):
            torch.nn.init.normal_(parameter, std=0.2)
        return model, processor

    return compose


@pytest.fixture
def arguments(tmp_path):
    def arguments(max_steps: int) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(tmp_path / "distilling"),
            max_steps=max_steps,
            per_device_train_batch_size=8,
            learning_rate=2e-2,
            lr_scheduler_type="cosine",
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )

    return arguments


def visual_tokens_of(model, processor, images) -> torch.Tensor:
    pixel_values = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return torch.cat(model.get_image_features(pixel_values).pooler_output)  # (tokens, d)


def test_the_linear_adapter_gives_on_images_held_out_what_the_words_gave(compose, arguments):
    model, processor = compose(coefficient_activation="gated_softmax")
    others = {name: tensor.clone() for name, tensor in model.state_dict().items() if "projector" not in name}
    target = visual_tokens_of(model, processor, IMAGES[::10])
    r2 = distil(model, processor, IMAGES, arguments(150))
    found = visual_tokens_of(model, processor, IMAGES[::10])
    expected = 1 - (found - target).square().sum() / (target - target.mean(0)).square().sum()
    assert r2 == pytest.approx(expected.item(), abs=1e-3) and r2 > 0.7
    assert model.config.coefficient_activation == "linear"
    assert model.config.projector_hidden_size == model.config.text_config.hidden_size
    for name, tensor in model.state_dict().items():
        if "projector" not in name and ("vocabulary_head" not in name or "token_ids" in name):
            assert tensor.equal(others[name]), name


def test_short_words_are_learnt_as_well(compose, arguments):
    model, processor = compose(coefficient_activation="gated_softmax")
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.01)
    assert distil(model, processor, IMAGES, arguments(150)) > 0.7


def test_more_steps_come_nearer(compose, arguments):
    scores = []
    for steps in (5, 60):
        model, processor = compose(coefficient_activation="softmax")
        scores.append(distil(model, processor, IMAGES, arguments(steps)))
    assert scores[0] < scores[1] - 0.05


def test_the_distilled_model_is_a_checkpoint(compose, arguments, tmp_path):
    model, processor = compose(coefficient_activation="gated_softmax")
    distil(model, processor, IMAGES, arguments(2))
    model.save_pretrained(tmp_path / "model")
    loaded = LangBridgeForConditionalGeneration.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(
        visual_tokens_of(loaded, processor, IMAGES[:2]), visual_tokens_of(model, processor, IMAGES[:2])
    )


@pytest.mark.parametrize(
    ("fields", "images", "complaint"),
    [
        ({}, IMAGES, "raw already"),
        ({"coefficient_activation": "softmax", "words_per_image": 5}, IMAGES, "gives a visual token per word"),
        ({"coefficient_activation": "softmax"}, IMAGES[:9], "takes 10 images or more, but there are 9"),
    ],
)
def test_what_cannot_be_distilled_is_refused(compose, arguments, fields, images, complaint):
    model, processor = compose(**fields)
    with pytest.raises(ValueError, match=complaint):
        distil(model, processor, images, arguments(1))

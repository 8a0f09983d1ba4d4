# SPDX-License-Identifier: Apache-2.0
"""What words do not say: a linear map beside them, which begins as nothing and belongs to one language model."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from tiny_parts import SENTENCES

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
    transfer,
)


@pytest.fixture
def compose(vision, text):
    def compose(words_per_image=None, linear_remainder=True, activation="gated_softmax"):
        processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, words_per_image=words_per_image)
        torch.manual_seed(0)
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision,
            text,
            SharedVocabulary.build([processor.tokenizer], SENTENCES, 60),
            processor,
            projector_hidden_size=40,
            coefficient_activation=activation,
            linear_remainder=linear_remainder,
        )
        for name, parameter in model.named_parameters():
            if ("multi_modal_projector" in name or "vocabulary_head" in name) and "remainder" not in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return model, processor

    return compose


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def see(model, pixel_values) -> torch.Tensor:
    return torch.stack(model.get_image_features(pixel_values).pooler_output)  # (images, tokens, d)


def project(model, pixel_values) -> torch.Tensor:
    return model.model.multi_modal_projector(model.model.get_vision_features(pixel_values).pooler_output)


def fill(model) -> torch.Tensor:
    weight = model.model.vocabulary_head.remainder_weight
    return torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(1)).detach()


@pytest.mark.parametrize("words_per_image", [None, 5])
def test_it_begins_as_nothing_and_learns_from_the_caption_loss(compose, pixel_values, words_per_image):
    model, _ = compose(words_per_image)
    plain, _ = compose(words_per_image, linear_remainder=False)
    assert see(model, pixel_values).equal(see(plain, pixel_values))
    see(model.train(), pixel_values).sin().sum().backward()
    assert model.model.vocabulary_head.remainder_weight.grad.abs().sum() > 0


@pytest.mark.parametrize("activation", ["softmax", "gated_softmax"])
def test_beside_mixtures_it_maps_each_patch(compose, pixel_values, activation):
    model, _ = compose(activation=activation)
    before = see(model, pixel_values)
    weight = fill(model)
    expected = before + project(model, pixel_values) @ weight.T
    torch.testing.assert_close(see(model, pixel_values), expected)


@pytest.mark.parametrize("activation", ["softmax", "gated_softmax"])
def test_beside_picked_words_it_maps_the_patches_that_say_them(compose, pixel_values, activation):
    model, _ = compose(5, activation=activation)
    before = see(model, pixel_values)
    weight = fill(model)
    coefficients = model.get_image_coefficients(pixel_values)  # (images, patches, V), gates included
    words = coefficients.sum(1).topk(5).indices  # (images, 5)
    expected = []
    for image, hidden_states in enumerate(project(model, pixel_values)):  # (patches, H)
        said = coefficients[image][:, words[image]]  # (patches, 5)
        expected.append((said / said.sum(0)).T @ hidden_states @ weight.T)
    torch.testing.assert_close(see(model, pixel_values) - before, torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_a_checkpoint_has_it_but_neither_an_adapter_alone_nor_a_transfer(
    compose, pixel_values, vision, text, tmp_path
):
    model, processor = compose()
    words_alone = see(model, pixel_values)
    fill(model)
    model.save_pretrained(tmp_path / "model")
    loaded = LangBridgeForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert see(loaded, pixel_values).equal(see(model, pixel_values))

    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    assert see(LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(vision, text)[0], pixel_values).equal(
        words_alone
    )
    for linear_remainder in (False, True):
        other, _ = transfer(model, processor, text, linear_remainder=linear_remainder)
        assert see(other, pixel_values).equal(words_alone)
    LangBridgeAdapter.from_pretrained(tmp_path / "adapter").load_onto(model, processor.tokenizer)
    assert see(model, pixel_values).equal(words_alone)


def test_raw_coefficients_have_no_need_of_it():
    with pytest.raises(StrictDataclassClassValidationError, match="`linear_remainder` needs coefficients"):
        LangBridgeConfig(bridge_vocab_size=100, linear_remainder=True)

# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch

from modeling_langbridge import LangBridgeForConditionalGeneration
from modeling_langbridge.adapter.word_space import (
    clean_null_space,
    invert_words,
    null_space_share,
    word_map_r2,
)


def draw(*shape) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_a_linear_map_between_the_words_is_found_on_words_held_out():
    source = draw(200, 10)
    assert word_map_r2(source, source @ draw(10, 14) + draw(14)) == pytest.approx(1)


def test_words_that_have_nothing_in_common_are_predicted_worse_than_by_their_mean():
    assert word_map_r2(draw(100, 60), draw(100, 20)) < -0.3  # 60 numbers a word, fitted to 80 words: overfitting shows


def test_the_r2_is_that_of_plain_least_squares():
    source, target = draw(100, 8).double(), (draw(100, 8) @ draw(8, 5) + 2 * draw(100, 5)).double()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    held_out, fitted = order[:20], order[20:]
    with_constant = torch.cat([source, torch.ones(100, 1)], dim=1).numpy()
    solution = np.linalg.lstsq(with_constant[fitted], target[fitted].numpy(), rcond=None)[0]
    error = ((with_constant[held_out] @ solution - target[held_out].numpy()) ** 2).sum()
    total = ((target[held_out] - target[fitted].mean(0)) ** 2).sum().item()
    assert word_map_r2(source, target) == pytest.approx(1 - error / total)
    assert 0.2 < word_map_r2(source, target) < 0.9


def test_the_null_share_is_the_energy_of_what_the_embeddings_take_for_nothing():
    words = draw(30, 8).double()
    left = torch.linalg.svd(words).U  # (30, 30): the first 8 columns are seen, the rest is nothing
    coefficients = 3 * left[:, 2] + 4 * left[:, 20]
    assert (coefficients @ words).norm() == pytest.approx((3 * left[:, 2] @ words).norm().item())
    assert null_space_share(coefficients, words) == pytest.approx(16 / 25)


def test_cleaning_takes_the_null_space_out_and_changes_nothing_else(model):
    pixel_values = draw(3, 3, 32, 32)
    for parameter in (*model.model.multi_modal_projector.parameters(), *model.model.vocabulary_head.parameters()):
        torch.nn.init.normal_(parameter)
    words = model.model.get_word_embeddings()
    with torch.no_grad():
        before = torch.stack(model.get_image_features(pixel_values).pooler_output)
        dirty = model.get_image_coefficients(pixel_values)
        assert null_space_share(dirty, words) > 0.1
        clean_null_space(model)
        clean = model.get_image_coefficients(pixel_values)
        assert null_space_share(clean, words) < 1e-9
        assert clean.norm() < 0.95 * dirty.norm()
        after = torch.stack(model.get_image_features(pixel_values).pooler_output)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_distributions_have_no_null_space(vision, text, processor):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision,
        text,
        list(range(100, 160)),
        processor=processor,
        projector_hidden_size=40,
        coefficient_activation="softmax",
    )
    with pytest.raises(ValueError, match="Only raw coefficients"):
        clean_null_space(model)


def test_ridge_is_in_units_of_the_mean_squared_singular_value():
    embeddings = np.random.default_rng(0).normal(size=(50, 12)) * np.linspace(1, 4, 12)
    gram = embeddings.T @ embeddings
    expected = embeddings @ np.linalg.inv(gram + 0.2 * np.trace(gram) / 12 * np.eye(12))
    inverse, _ = invert_words(torch.tensor(embeddings), 0.2)
    np.testing.assert_allclose(inverse.numpy(), expected, rtol=0, atol=1e-12)


def test_the_inverse_stays_exact_for_words_of_very_unlike_lengths():
    """As real embeddings are, with condition number 1e6, which a Gram matrix would square."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(300, 40, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))[0]
    embeddings = embeddings * torch.logspace(0, -6, 40, dtype=torch.float64) @ rotation + 0.3
    inverse, rank = invert_words(embeddings)
    assert rank == 40
    torch.testing.assert_close(embeddings.T @ inverse, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-8)


def test_a_direction_shorter_than_the_words_rounding_is_left_out():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(300, 8, generator=generator)
    embeddings[:, 3] *= 1e-4
    token = torch.ones(8, dtype=torch.float64)
    for dtype, rank in ((torch.float32, 8), (torch.bfloat16, 7)):
        words = embeddings.to(dtype)
        inverse, found = invert_words(words)
        made_of_words = words.double().T @ (inverse.to(dtype).double() @ token)
        error = (made_of_words - token).norm() / token.norm()
        # Kept in bfloat16, its coefficients would be rounded by more than all that it holds.
        assert found == rank and error < (1e-3 if rank == 8 else 0.36)

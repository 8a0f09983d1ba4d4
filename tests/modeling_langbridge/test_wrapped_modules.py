# SPDX-License-Identifier: Apache-2.0
"""Hooks, PEFT and quantisers on modules of the model: the visual tokens stay those of the words' own embeddings."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.integrations.neftune import neftune_post_forward_hook


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def visual_tokens(model, pixel_values) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(model.get_image_features(pixel_values).pooler_output)


def test_noise_on_the_texts_embeddings_does_not_reach_the_words(model, pixel_values):
    expected = visual_tokens(model.train(), pixel_values)
    embedding = model.get_input_embeddings()
    embedding.neftune_noise_alpha = 5
    embedding.register_forward_hook(neftune_post_forward_hook)
    assert not embedding(torch.arange(4)[None]).equal(embedding.weight[None, :4])
    torch.testing.assert_close(visual_tokens(model, pixel_values), expected)
    assert embedding.training


def test_hooks_on_the_embedding_see_the_words_as_one_sequence(model, pixel_values):
    shapes = []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    visual_tokens(model, pixel_values)
    assert shapes == [(1, 60, 32)]


def test_a_loras_dropout_on_the_embedding_does_not_reach_the_words(model, pixel_values):
    name = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    wrapped = get_peft_model(model, LoraConfig(target_modules=[name], lora_dropout=0.9, init_lora_weights=False))
    expected = visual_tokens(wrapped.eval().get_base_model(), pixel_values)
    torch.testing.assert_close(visual_tokens(wrapped.train().get_base_model(), pixel_values), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_layers_without_a_weight_tensor_run(model, pixel_values):
    expected = visual_tokens(model, pixel_values)
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    found = visual_tokens(quantised, pixel_values)
    assert (found - expected).norm() / expected.norm() < 0.1

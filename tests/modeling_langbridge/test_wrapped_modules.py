# SPDX-License-Identifier: Apache-2.0
"""Hooks, PEFT and wrappers on modules of the model: the visual tokens stay those of the words' own embeddings."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM
from transformers.integrations.neftune import neftune_post_forward_hook

from modeling_langbridge import LangBridgeForConditionalGeneration


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


class Wrapper(nn.Module):
    """Passes on a call and nothing else."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def test_layers_of_the_projector_may_be_wrapped(model, pixel_values):
    expected = visual_tokens(model, pixel_values)
    projector = model.model.multi_modal_projector
    projector.linear_1, projector.linear_2 = Wrapper(projector.linear_1), Wrapper(projector.linear_2)
    torch.testing.assert_close(visual_tokens(model, pixel_values), expected)


def test_a_parametrized_embedding_gives_the_words_that_it_computes(model, pixel_values):
    expected = visual_tokens(model, pixel_values)
    embedding = model.get_input_embeddings()
    parametrize.register_parametrization(embedding, "weight", Doubled())
    torch.testing.assert_close(visual_tokens(model, pixel_values), 2 * expected)
    with torch.no_grad():
        embedding.parametrizations.weight.original.mul_(2)
    torch.testing.assert_close(visual_tokens(model, pixel_values), 4 * expected)
    assert not model.model.folded_adapter.is_lookup(embedding)


@pytest.fixture(params=["linear", "softmax", "gated_softmax"])
def lora_on_the_head(request, vision, text, processor):
    """A model whose vocabulary head PEFT wraps parameter by parameter, and the same model with the LoRA merged."""
    torch.manual_seed(0)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor, coefficient_activation=request.param, projector_hidden_size=40
    )
    weights = ["weight", "gate_weight"] if request.param == "gated_softmax" else ["weight"]
    lora = LoraConfig(target_parameters=[f"vocabulary_head.{name}" for name in weights], init_lora_weights=False)
    wrapped = get_peft_model(model, lora)
    merged = copy.deepcopy(wrapped).merge_and_unload()
    merged.model.vocabulary_head.requires_grad_(True)
    return wrapped.get_base_model(), merged


@pytest.mark.filterwarnings("ignore:target_modules")
def test_a_lora_on_the_heads_parameters_changes_what_is_seen_and_read(lora_on_the_head, pixel_values):
    wrapped, merged = lora_on_the_head
    assert type(wrapped.model.vocabulary_head).__name__ == "ParamWrapper"
    torch.testing.assert_close(visual_tokens(wrapped, pixel_values), visual_tokens(merged, pixel_values))
    coefficients = merged.get_image_coefficients(pixel_values)
    torch.testing.assert_close(wrapped.get_image_coefficients(pixel_values), coefficients)
    hidden_states = torch.randn(2, 5, 40)
    torch.testing.assert_close(
        wrapped.model.vocabulary_head(hidden_states, pool=True), merged.model.vocabulary_head.pool(hidden_states)
    )
    assert wrapped.model.get_word_ids() == merged.model.get_word_ids() == [[i] for i in range(100, 160)]
    assert wrapped.model.get_word_embeddings().equal(merged.model.get_word_embeddings())


@pytest.mark.filterwarnings("ignore:target_modules")
def test_a_lora_on_the_heads_parameters_learns_what_the_merged_weights_would(lora_on_the_head, pixel_values):
    wrapped, merged = lora_on_the_head
    for model in (wrapped, merged):
        model.train()
        torch.stack(model.get_image_features(pixel_values).pooler_output).sin().sum().backward()
    head = wrapped.model.vocabulary_head
    while hasattr(head, "base_layer"):
        lora_A, lora_B = (matrix["default"].weight for matrix in (head.lora_A, head.lora_B))
        # The weight is W + scaling B A.
        gradient = getattr(merged.model.vocabulary_head, head.parameter_name).grad  # (out, H)
        torch.testing.assert_close(lora_B.grad, head.scaling["default"] * gradient @ lora_A.T)
        torch.testing.assert_close(lora_A.grad, head.scaling["default"] * lora_B.T @ gradient)
        head = head.base_layer


def test_a_language_model_whose_output_layer_is_wrapped_is_refused(vision, text):
    language_model = AutoModelForCausalLM.from_pretrained(text)
    wrapped = get_peft_model(language_model, LoraConfig(target_modules=["lm_head"])).get_base_model()
    with pytest.raises(ValueError, match="output layer of `text` is a Linear.*merge a LoRA first"):
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(vision, wrapped, [1, 2, 3])

# SPDX-License-Identifier: Apache-2.0
"""In training the projector's second layer joins the vocabulary head's map where that is less to compute."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modeling_langbridge import LangBridgeForConditionalGeneration


H, V, D, FEATURE_SIZE = 40, 60, 32, 24


def make_features(num_tokens: int) -> torch.Tensor:
    return torch.randn(4, num_tokens // 4, FEATURE_SIZE, generator=torch.Generator().manual_seed(0))


def in_order(model, features: torch.Tensor) -> torch.Tensor:
    """The adapter as the formulas say it."""
    projector, head = model.model.multi_modal_projector, model.model.vocabulary_head
    embeddings = model.get_input_embeddings()(head.token_ids).detach().to(features)
    return head.get_coefficients(projector(features)) @ embeddings


def gradients_of(model, way, features: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    way(features).sin().sum().backward()
    return [parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None]


def count_multiply_adds(model, features: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model.model.adapt(features).sum().backward()
    return counter.get_total_flops() // 2


def expected_multiply_adds(num_tokens: int, joined: bool) -> int:
    first = 2 * num_tokens * FEATURE_SIZE * H  # no gradient flows to the tower
    head = 2 * H * V * D + 3 * num_tokens * H * D
    return first + head + 3 * H * H * (D if joined else num_tokens)


@pytest.mark.parametrize("bias", [True, False])
def test_tokens_and_gradients_are_those_of_the_formulas(vision, text, processor, bias):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        *(vision, text, list(range(100, 160)), processor),
        projector_hidden_size=H,
        multimodal_projector_bias=bias,
    )
    model.double().train()
    nn.init.normal_(model.model.vocabulary_head.bias)
    features = make_features(64).double()
    torch.testing.assert_close(model.model.adapt(features), in_order(model, features))
    found = gradients_of(model, model.model.adapt, features)
    assert len(found) == (6 if bias else 4)
    torch.testing.assert_close(found, gradients_of(model, lambda features: in_order(model, features), features))


@pytest.mark.parametrize("num_tokens", [D + 4, 400])
def test_the_second_layer_never_meets_the_tokens_where_they_are_many(model, num_tokens):
    counted = count_multiply_adds(model.train(), make_features(num_tokens))
    bias = counted - expected_multiply_adds(num_tokens, joined=True)
    assert 0 <= bias <= 4 * (V * D + H * D)
    assert expected_multiply_adds(num_tokens, joined=True) < expected_multiply_adds(num_tokens, joined=False)


def test_few_tokens_meet_it_one_by_one(model):
    counted = count_multiply_adds(model.train(), make_features(28))
    bias = counted - expected_multiply_adds(28, joined=False)
    assert 0 <= bias <= 4 * V * D


def test_a_lora_beside_which_the_adapter_trains_in_full_joins_it_too(model):
    expected = gradients_of(model, model.model.adapt, make_features(64))
    lora = LoraConfig(target_modules=["q_proj"], modules_to_save=["multi_modal_projector", "vocabulary_head"])
    wrapped = get_peft_model(copy.deepcopy(model), lora).train()
    bridge = wrapped.get_base_model()
    torch.testing.assert_close(gradients_of(bridge, bridge.model.adapt, make_features(64)), expected)
    counted = count_multiply_adds(bridge, make_features(400))
    assert counted < expected_multiply_adds(400, joined=False)


@pytest.mark.filterwarnings("ignore:target_modules")
@pytest.mark.parametrize("part", ["vocabulary_head", "multi_modal_projector.linear_2"])
def test_a_lora_on_the_adapters_own_weights_counts(model, part):
    lora = LoraConfig(target_parameters=[f"{part}.weight"], init_lora_weights=False)
    wrapped = get_peft_model(model, lora)
    merged = copy.deepcopy(wrapped).merge_and_unload().train()
    bridge = wrapped.train().get_base_model()
    torch.testing.assert_close(bridge.model.adapt(make_features(64)), merged.model.adapt(make_features(64)))


def test_hooks_on_the_projector_see_what_it_is_documented_to_give(model):
    shapes = []
    model.model.multi_modal_projector.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model.train().model.adapt(make_features(64))
    assert shapes == [(4, 16, H)]


def test_autocast_to_bfloat16_stays_as_close_as_the_formulas_do(model):
    exact = in_order(copy.deepcopy(model).double(), make_features(400).double())
    with torch.autocast("cpu", torch.bfloat16):
        joined, plain = model.train().model.adapt(make_features(400)), in_order(model, make_features(400))
    assert (joined - exact).norm() < 1.5 * (plain - exact).norm()

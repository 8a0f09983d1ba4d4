# SPDX-License-Identifier: Apache-2.0
"""In inference the adapter runs folded into LLaVA's two-layer MLP, and never with stale weights."""

import copy

import pytest
import torch
from tiny_parts import ask, make_image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.exporters.utils import decompose_multimodal

from modeling_langbridge import LangBridgeForConditionalGeneration


FEATURES = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(0))


def plain(model) -> torch.Tensor:
    """The adapter as the formulas say it, in float64."""
    projector, head = (
        copy.deepcopy(part).double() for part in (model.model.multi_modal_projector, model.model.vocabulary_head)
    )
    embeddings = model.get_input_embeddings()(head.token_ids).double()
    return head.get_coefficients(projector(FEATURES.double())) @ embeddings


def assert_fresh(model, dtype=torch.float32):
    with torch.no_grad():
        tolerance = 1e-6 if dtype == torch.float32 else 2e-2
        expected = plain(model)
        actual = model.model.adapt(FEATURES.to(dtype)).double()
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture
def folded(model):
    assert_fresh(model)
    assert model.model.folded_adapter.map.made.weight.shape == (32, 40)
    return model


def edit_weight(model):
    model.model.vocabulary_head.weight.mul_(2)


def edit_one_coefficient(model):
    model.model.vocabulary_head.weight[7, 3] += 1


def edit_bias(model):
    model.model.vocabulary_head.bias[5] += 1


def edit_second_layer(model):
    model.model.multi_modal_projector.linear_2.weight.mul_(3)


def edit_first_layer(model):
    model.model.multi_modal_projector.linear_1.weight.mul_(3)


def edit_one_word_embedding(model):
    model.get_input_embeddings().weight[model.model.vocabulary_head.token_ids[9]] += 1


def replace_embedding(model):
    embedding = nn.Embedding(600, 32)
    model.set_input_embeddings(embedding)


def choose_other_words(model):
    model.model.vocabulary_head.token_ids.add_(1)


def replace_weight(model):
    model.model.vocabulary_head.weight = nn.Parameter(torch.randn(60, 40))


def load_other_state(model):
    state = {
        name: tensor + 0.1 if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)


def resize_embeddings(model):
    model.resize_token_embeddings(700)
    edit_one_word_embedding(model)


def train_a_step(model):
    model.train()
    model.model.adapt(FEATURES).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.eval()


@pytest.mark.parametrize(
    "change",
    [
        edit_weight,
        edit_one_coefficient,
        edit_bias,
        edit_second_layer,
        edit_first_layer,
        edit_one_word_embedding,
        replace_embedding,
        choose_other_words,
        replace_weight,
        load_other_state,
        resize_embeddings,
        train_a_step,
    ],
)
def test_a_change_is_served_at_once(folded, change):
    before = folded.model.adapt(FEATURES)
    with torch.no_grad() if change is not train_a_step else torch.enable_grad():
        change(folded)
    assert_fresh(folded)
    with torch.no_grad():
        assert not torch.allclose(folded.model.adapt(FEATURES), before)


def test_an_edit_that_no_version_counter_sees_is_served_after_a_change_of_mode(folded):
    folded.model.vocabulary_head.weight.data[7] += 1
    folded.train().eval()
    assert_fresh(folded)


def test_a_change_of_dtype_is_served_at_once(folded):
    folded.to(torch.bfloat16)
    assert_fresh(folded, torch.bfloat16)
    folded.to(torch.float32)
    assert_fresh(folded)


def test_a_move_to_another_device_leaves_the_fold_behind(folded):
    folded.to("meta")
    assert folded.model.adapt(FEATURES.to("meta")).device.type == "meta"


def test_unchanged_weights_are_folded_once(folded):
    weight = folded.model.folded_adapter.map.made.weight
    assert_fresh(folded)
    assert folded.model.folded_adapter.map.made.weight is weight


def test_the_fold_is_more_exact_than_the_order_it_replaces(folded):
    with torch.no_grad():
        exact = plain(folded)
        embeddings = folded.get_input_embeddings()(folded.model.vocabulary_head.token_ids)
        ordered = (
            folded.model.vocabulary_head.get_coefficients(folded.model.multi_modal_projector(FEATURES)) @ embeddings
        )
        assert (folded.model.adapt(FEATURES) - exact).norm() < (ordered - exact).norm()


def test_gradients_flow_in_eval_mode_too(folded):
    folded.model.adapt(FEATURES).sum().backward()
    assert folded.model.vocabulary_head.weight.grad.abs().sum() > 0


def test_a_fold_made_in_inference_mode_lets_gradients_through_to_the_pixels(model):
    model.requires_grad_(False)
    with torch.inference_mode():
        model.model.adapt(FEATURES)
    features = FEATURES.clone().requires_grad_()
    model.model.adapt(features).sum().backward()
    assert features.grad.abs().sum() > 0


def test_forward_hooks_on_the_head_are_called(folded):
    calls = []
    folded.model.vocabulary_head.register_forward_hook(lambda *_: calls.append(1))
    assert_fresh(folded)
    assert calls


def test_forward_hooks_on_the_projector_see_what_it_gives_the_head_folded_before_or_not(model, folded):
    for each in (model, folded):
        shapes = []
        each.model.multi_modal_projector.register_forward_hook(lambda *call: shapes.append(call[-1].shape[-1]))  # noqa: B023
        assert_fresh(each)
        assert set(shapes) == {40}


@pytest.mark.parametrize("activation", ["softmax", "gated_softmax"])
def test_a_softmax_is_never_folded(vision, text, processor, activation):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, [100, 101, 102], processor=processor, projector_hidden_size=40, coefficient_activation=activation
    )
    assert_fresh(model)
    assert not model.model.folded_adapter.map.made


def test_the_fold_is_no_part_of_the_checkpoint(folded):
    assert not [name for name in folded.state_dict() if "folded" in name]


def test_from_the_second_image_on_the_adapter_costs_what_llavas_mlp_costs(model):
    mlp = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 32))

    def operations(run) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run(FEATURES)
        return counter.get_total_flops()

    first, second = operations(model.model.adapt), operations(model.model.adapt)
    assert second == operations(mlp) < first


def test_transformers_exporters_find_the_adapter_in_the_projector(model, processor):
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    parts = decompose_multimodal(model, dict(inputs))
    projector, kwargs = parts["multi_modal_projector"]
    with torch.no_grad():
        expected = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
        torch.testing.assert_close(projector(**kwargs)[0], expected)

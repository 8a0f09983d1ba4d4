# SPDX-License-Identifier: Apache-2.0
"""A frozen vision tower runs forward alone, whatever is trained behind it."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode


PIXEL_VALUES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def lora(model):
    """LoRA on the language model under gradient checkpointing, for which PEFT makes every embedding's output require
    gradients."""
    config = LoraConfig(target_modules=r".*language_model.*q_proj", modules_to_save=["multi_modal_projector"])
    model.activation_checkpointing_enable({"use_reentrant": False})
    return get_peft_model(model, config).train()


def count_operations(run) -> dict[str, int]:
    """The floating-point operations of the tower, and of all."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = {name: sum(of_kinds.values()) for name, of_kinds in counter.get_flop_counts().items()}
    return {"tower": counts["CLIPVisionModel"], "all": counts["Global"]}


def test_peft_and_checkpointing_do_not_send_it_backward(lora):
    bridge = lora.get_base_model()

    def step():
        torch.stack(bridge.get_image_features(PIXEL_VALUES).pooler_output).sum().backward()

    def look():
        with torch.no_grad():
            bridge.get_image_features(PIXEL_VALUES)

    trained, seen = count_operations(step), count_operations(look)
    assert trained["tower"] == seen["tower"] > 0
    assert trained["all"] > seen["all"]
    assert all(parameter.grad is None for parameter in bridge.model.vision_tower.parameters())
    assert bridge.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


def test_a_trained_tower_learns(model):
    model.train()
    torch.stack(model.get_image_features(PIXEL_VALUES).pooler_output).sum().backward()
    assert any(parameter.grad is not None for parameter in model.model.vision_tower.parameters())


def test_the_adapters_gradients_are_those_behind_a_trained_tower(model):
    frozen = copy.deepcopy(model)
    frozen.model.vision_tower.requires_grad_(False)
    for one in (model, frozen):
        torch.stack(one.train().get_image_features(PIXEL_VALUES).pooler_output).sin().sum().backward()
    adapters = [[p.grad for p in one.model.multi_modal_projector.parameters()] for one in (model, frozen)]
    torch.testing.assert_close(*adapters)


def test_gradients_reach_the_pixels_that_ask_for_them(model):
    model.requires_grad_(False)
    pixel_values = PIXEL_VALUES.clone().requires_grad_()
    torch.stack(model.get_image_features(pixel_values).pooler_output).sum().backward()
    assert pixel_values.grad.abs().sum() > 0

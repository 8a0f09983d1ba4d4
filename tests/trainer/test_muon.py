# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments

from modeling_langbridge import LangBridgeForConditionalGeneration
from trainer.muon import build_muon


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    return AutoModelForCausalLM.from_config(config)


IDS = torch.arange(24).reshape(2, 12)


def step(model, optimizer):
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def test_muon_gets_the_hidden_matrices_and_nothing_else(model):
    muon, adamw = (group["params"] for group in build_muon(model, 1e-3).param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in muon} == {
        f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")
    }
    assert {names[id(p)] for p in adamw} >= {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}


def test_parts_of_a_langbridge_learn_at_rates_of_their_own(vision, text, processor):
    langbridge = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    rates = {"projector": 3e-3, "vocabulary_head": 4e-3}
    names = {id(parameter): name for name, parameter in langbridge.named_parameters()}
    optimizer = build_muon(langbridge, 1e-3, part_learning_rates=rates)
    found = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    projector = "model.multi_modal_projector.linear_1"
    assert found[f"{projector}.weight"] == found[f"{projector}.bias"] == 3e-3
    assert found["model.vocabulary_head.weight"] == 4e-3
    assert found["model.language_model.layers.0.self_attn.q_proj.weight"] == 1e-3
    assert len(found) == len(names)
    before = {name: parameter.detach().clone() for name, parameter in langbridge.named_parameters()}
    langbridge.model.multi_modal_projector(torch.randn(2, 24)).sum().backward()
    optimizer.step()
    moved = {name for name, p in langbridge.named_parameters() if not p.equal(before[name])}
    assert moved == {name for name in before if "multi_modal_projector" in name}


def test_frozen_parameters_stay_as_they_are(model):
    model.model.layers[0].mlp.requires_grad_(False)
    model.lm_head.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    optimizer = build_muon(model, 1e-2)
    assert all(parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"])
    step(model, optimizer)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in changed and "model.embed_tokens.weight" in changed
    assert not {name for name in changed if "mlp" in name or "lm_head" in name}


def test_a_resumed_optimizer_takes_the_same_steps(model):
    optimizer = build_muon(model, 1e-2)
    for _ in range(3):
        step(model, optimizer)
    twin = copy.deepcopy(model)
    resumed = build_muon(twin, 1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [step(model, optimizer) for _ in range(3)] == [step(twin, resumed) for _ in range(3)]


def test_the_update_is_muons_in_single_precision(model):
    weight = model.model.layers[0].self_attn.q_proj.weight
    reference = torch.nn.Parameter(weight.detach().clone())
    optimizer = build_muon(model, 1e-2)
    before = weight.detach().clone()
    model(input_ids=IDS, labels=IDS).loss.backward()
    reference.grad = weight.grad.clone()
    optimizer.step()
    torch.optim.Muon([reference], lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    update, wanted = (before - weight).flatten(), (before - reference).flatten()
    assert torch.nn.functional.cosine_similarity(update, wanted, dim=0) > 0.999
    assert not torch.equal(update, wanted)  # torch's own is rounded to bfloat16


def test_a_trainer_schedules_it_and_the_model_learns(model, tmp_path):
    arguments = TrainingArguments(
        output_dir=tmp_path,
        max_steps=30,
        learning_rate=1e-2,
        lr_scheduler_type="linear",
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )
    samples = [{"input_ids": row, "labels": row} for row in IDS]
    optimizer = build_muon(model, 1e-2)
    trainer = Trainer(model=model, args=arguments, train_dataset=samples, optimizers=(optimizer, None))
    first = model(input_ids=IDS, labels=IDS).loss.item()
    trainer.train()
    assert model(input_ids=IDS, labels=IDS).loss.item() < 0.5 * first
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]

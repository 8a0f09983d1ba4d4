# SPDX-License-Identifier: Apache-2.0
"""The adapters to compare with: LLaVA's MLP and VLAP's linear layer, under the same model class and trainer."""

import json
import logging

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from peft import PeftModel
from tiny_parts import SENTENCES, ask, make_image
from tiny_training import make_trainer, write_samples
from transformers import AutoModel, CLIPVisionConfig, Qwen2Config

from experiments.mlp_baseline import build_mlp_baseline
from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    SharedVocabulary,
)
from trainer import load_training_data
from trainer.model_loading import ModelArguments, check_places
from trainer.model_loading import compose as compose_parts


TYPES = ["langbridge", "mlp", "linear"]
WITHOUT_WORDS = ["mlp", "linear"]
# A tower 24 wide, a language model 32 wide, and 40 where the projector's width is its own.
SHAPES = {
    "langbridge": {
        "multi_modal_projector.linear_1.weight": (40, 24),
        "multi_modal_projector.linear_1.bias": (40,),
        "multi_modal_projector.linear_2.weight": (40, 40),
        "multi_modal_projector.linear_2.bias": (40,),
        "vocabulary_head.weight": (60, 40),
        "vocabulary_head.bias": (60,),
        "vocabulary_head.token_ids": (60,),
    },
    "mlp": {
        "multi_modal_projector.linear_1.weight": (32, 24),
        "multi_modal_projector.linear_1.bias": (32,),
        "multi_modal_projector.linear_2.weight": (32, 32),
        "multi_modal_projector.linear_2.bias": (32,),
    },
    "linear": {
        "multi_modal_projector.linear_1.weight": (32, 24),
        "multi_modal_projector.linear_1.bias": (32,),
    },
}


@pytest.fixture
def compose(vision, text, processor):
    """Composes a model of one type, with an adapter as random as if it had been trained."""

    def compose(adapter_type: str, **fields) -> LangBridgeForConditionalGeneration:
        vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision,
            text,
            vocabulary if adapter_type == "langbridge" else None,
            processor,
            adapter_type,
            **{"projector_hidden_size": 40, **fields},
        )
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.model.named_parameters():
            if name in SHAPES[adapter_type]:
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        return model

    return compose


@pytest.fixture
def inputs(processor):
    return processor.apply_chat_template(
        ask(make_image()), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@pytest.fixture
def dataset(tmp_path):
    return load_training_data(str(write_samples(tmp_path)))


def adapter_parameters(model) -> dict[str, torch.nn.Parameter]:
    parts = ("multi_modal_projector.", "vocabulary_head.")
    return {name: parameter for name, parameter in model.model.named_parameters() if name.startswith(parts)}


@torch.no_grad()
def logits_of(model, inputs) -> torch.Tensor:
    return model(**inputs).logits


@pytest.mark.parametrize("adapter_type", TYPES)
def test_the_checkpoint_holds_what_the_type_is_made_of(compose, adapter_type):
    parts = ("multi_modal_projector.", "vocabulary_head.")
    state = compose(adapter_type).model.state_dict()
    assert {name: tuple(t.shape) for name, t in state.items() if name.startswith(parts)} == SHAPES[adapter_type]


@pytest.mark.parametrize("adapter_type", TYPES)
def test_a_reloaded_model_says_the_same(compose, processor, inputs, tmp_path, adapter_type):
    model = compose(adapter_type)
    model.save_pretrained(tmp_path)
    reloaded = AutoModel.from_pretrained(tmp_path)
    assert reloaded.config.adapter_type == adapter_type
    assert torch.equal(logits_of(reloaded, inputs), logits_of(model, inputs))
    blank = {**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}
    assert not torch.allclose(logits_of(reloaded, blank), logits_of(model, inputs), atol=1e-3)
    said = [m.generate(**inputs, max_new_tokens=5, do_sample=False) for m in (model, reloaded)]
    assert torch.equal(*said)
    last = logits_of(model, inputs)[0, -1]
    last[processor.image_token_id] = -torch.inf
    assert said[0][0, inputs["input_ids"].shape[1]] == last.argmax()


@pytest.mark.parametrize("adapter_type", TYPES)
def test_gradients_reach_the_whole_adapter(compose, inputs, adapter_type):
    model = compose(adapter_type).train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(parameter.grad.count_nonzero() for parameter in adapter_parameters(model).values())


@pytest.mark.parametrize("adapter_type", TYPES)
def test_a_batch_of_text_trains_where_only_the_adapter_learns(compose, processor, adapter_type):
    model = compose(adapter_type).requires_grad_(False).train()
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(True)
    text = processor(text="a dog runs on the grass", return_tensors="pt")
    labels = text["input_ids"]
    loss = model(**text, labels=labels, pixel_values=torch.zeros(0, 3, 32, 32)).loss
    loss.backward()
    assert all(p.grad.count_nonzero() == 0 for p in adapter_parameters(model).values())
    assert loss.item() == pytest.approx(model(**text, labels=labels).loss.item(), rel=1e-6)


@pytest.mark.parametrize(
    "fields",
    [{}, {"vision_feature_layer": [-2, -1], "projector_hidden_act": "relu", "multimodal_projector_bias": False}],
    ids=["default", "two_layers_relu_without_bias"],
)
def test_the_mlp_is_that_of_stock_llava(compose, inputs, fields):
    model = compose("mlp", **fields)
    stock = build_mlp_baseline(model, **fields)
    assert not torch.allclose(logits_of(stock, inputs), logits_of(model, inputs), atol=1e-3)
    stock.model.multi_modal_projector.load_state_dict(model.model.multi_modal_projector.state_dict())
    assert torch.equal(logits_of(stock, inputs), logits_of(model, inputs))
    said = [m.generate(**inputs, max_new_tokens=5, do_sample=False) for m in (stock, model)]
    assert torch.equal(*said)


@torch.no_grad()
def test_the_linear_adapter_is_one_matrix_and_a_bias(compose, inputs):
    model = compose("linear")
    layer = model.model.multi_modal_projector.linear_1
    layer.weight.zero_()
    layer.weight[0, 1], layer.weight[31, 23] = 2.0, -1.0
    layer.bias.copy_(torch.arange(32.0))
    features = model.model.get_vision_features(inputs["pixel_values"]).pooler_output[0]  # (16, 24)
    expected = torch.arange(32.0).repeat(16, 1)  # (16, 32)
    expected[:, 0] += 2 * features[:, 1]
    expected[:, 31] -= features[:, 23]
    (visual_tokens,) = model.get_image_features(inputs["pixel_values"]).pooler_output
    torch.testing.assert_close(visual_tokens, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("adapter_type", TYPES)
def test_only_words_are_folded(compose, inputs, adapter_type):
    model = compose(adapter_type)
    logits_of(model, inputs)
    assert bool(model.model.folded_adapter.map.made) == (adapter_type == "langbridge")


def test_a_checkpoint_from_before_there_were_types_is_made_of_words(compose, inputs, tmp_path):
    model = compose("langbridge")
    model.save_pretrained(tmp_path)
    configuration = json.loads((tmp_path / "config.json").read_text())
    assert configuration.pop("adapter_type") == "langbridge"
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    reloaded = AutoModel.from_pretrained(tmp_path)
    assert reloaded.config.adapter_type == "langbridge"
    assert torch.equal(logits_of(reloaded, inputs), logits_of(model, inputs))


def test_a_type_that_does_not_exist_is_refused(vision, text, processor):
    with pytest.raises(Exception, match="adapter_type.*qformer"):
        LangBridgeConfig(adapter_type="qformer")
    with pytest.raises(Exception, match="adapter_type.*qformer"):
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, None, processor, adapter_type="qformer"
        )


def test_what_is_said_of_words_is_checked_only_where_there_are_words():
    fields = {"vision_config": CLIPVisionConfig(), "text_config": Qwen2Config(vocab_size=99)}
    for adapter_type in WITHOUT_WORDS:
        LangBridgeConfig(adapter_type=adapter_type, projector_hidden_size=0, **fields)
    with pytest.raises(Exception, match="`bridge_vocab_size` is 19200"):
        LangBridgeConfig(**fields)


def test_an_adapter_of_words_asks_for_them(vision, text, processor):
    with pytest.raises(ValueError, match="`vocabulary` is missing: give one, or an `adapter_type` without words"):
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(vision, text, processor=processor)


@pytest.mark.parametrize("adapter_type", WITHOUT_WORDS)
def test_what_is_about_words_says_that_there_are_none(compose, processor, inputs, tmp_path, adapter_type):
    model, tokenizer = compose(adapter_type), processor.tokenizer
    LangBridgeAdapter.from_model(compose("langbridge"), tokenizer).save_pretrained(tmp_path / "of_words")
    for name, call in {
        "get_image_coefficients": lambda: model.get_image_coefficients(inputs["pixel_values"]),
        "LangBridgeAdapter.from_model": lambda: LangBridgeAdapter.from_model(model, tokenizer),
        "load_onto": lambda: LangBridgeAdapter.from_pretrained(tmp_path / "of_words").load_onto(model, tokenizer),
    }.items():
        with pytest.raises(ValueError, match=f"^`{name}` needs .* words, .* `adapter_type` is '{adapter_type}'.$"):
            call()


@pytest.mark.parametrize("adapter_type", TYPES)
def test_one_trainer_teaches_every_type(compose, processor, dataset, inputs, tmp_path, caplog, adapter_type):
    model = compose(adapter_type)
    before = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    with caplog.at_level(logging.INFO):
        trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=2)
        trainer.train()
        trainer.save_model()
    changed = {name for name, parameter in model.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(SHAPES[adapter_type]) - {"vocabulary_head.token_ids"}
    assert "projector: trained in full" in caplog.text
    of_words = adapter_type == "langbridge"
    assert ("vocabulary_head" in caplog.text) == of_words
    assert (tmp_path / "out" / "adapter" / "adapter.safetensors").is_file() == of_words
    assert (tmp_path / "out" / "adapter").exists() == of_words
    assert "was not saved" not in caplog.text
    reloaded = AutoModel.from_pretrained(tmp_path / "out")
    assert torch.equal(logits_of(reloaded, inputs), logits_of(model.eval(), inputs))


@pytest.mark.parametrize("adapter_type", TYPES)
def test_lora_keeps_the_adapter_of_every_type_beside_it(compose, processor, dataset, inputs, tmp_path, adapter_type):
    compose(adapter_type).save_pretrained(tmp_path / "base")
    model = AutoModel.from_pretrained(tmp_path / "base")
    trainer = make_trainer(
        model, processor, dataset, tmp_path / "out", train_language_model="lora", lora_dropout=0.0, max_steps=2
    )
    trainer.train()
    trainer.save_model()
    kept = {"multi_modal_projector"} | ({"vocabulary_head"} if adapter_type == "langbridge" else set())
    assert set(trainer.model.peft_config["default"].modules_to_save) == kept
    base = AutoModel.from_pretrained(tmp_path / "base")
    untrained = logits_of(base, inputs)
    loaded = logits_of(PeftModel.from_pretrained(base, tmp_path / "out").eval(), inputs)
    assert (loaded - untrained).abs().max() > 1e-3
    torch.testing.assert_close(loaded, logits_of(trainer.model.eval(), inputs), atol=1e-5, rtol=0)
    assert (tmp_path / "out" / "adapter").exists() == (adapter_type == "langbridge")


def test_training_nothing_but_an_absent_part_is_refused(compose, processor, dataset, tmp_path):
    with pytest.raises(ValueError, match="Every part that a model of `adapter_type` 'mlp' has is frozen"):
        make_trainer(compose("mlp"), processor, dataset, tmp_path / "out", train_projector="frozen")


def test_the_script_trains_a_new_model_of_the_type_that_is_asked_for(vision, text, tmp_path):
    arguments = ["--config", str(SCRIPTS / "recipes" / "tiny.yaml"), "--adapter_type", "mlp"]
    arguments += ["--vision_tower", vision, "--language_model", text, "--dataset", str(write_samples(tmp_path))]
    arguments += ["--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--report_to", "none"]
    result = run_script_here(SCRIPTS / "train.py", *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.config.adapter_type == "mlp"
    assert model.model.multi_modal_projector.linear_2.weight.shape == (32, 32)
    assert not (tmp_path / "out" / "adapter").exists()


def test_the_script_refuses_an_adapter_of_words_where_another_type_is_asked_for(vision, text, tmp_path):
    parts = {"vision_tower": vision, "language_model": text}
    model, _ = compose_parts(ModelArguments(**parts, adapter_type="linear"))
    assert model.config.adapter_type == "linear"
    with pytest.raises(ValueError, match="--adapter is made of words, --adapter_type linear is not"):
        check_places(ModelArguments(**parts, adapter_type="linear", adapter=str(tmp_path)), needs_folder=False)

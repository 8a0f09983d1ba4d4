# SPDX-License-Identifier: Apache-2.0
"""LoRA on the language model, the adapter in full beside it, in one artefact; and the same over a 4-bit base."""

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tiny_parts import ask, make_image, save_language_model
from tiny_training import as_saved, make_trainer, save_langbridge, write_samples
from transformers import AutoModelForImageTextToText

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.modeling_langbridge import LangBridgeLMHead
from trainer import load_training_data
from trainer.model_loading import ModelArguments, load_model
from trainer.parts import part_of


@pytest.fixture
def dataset(tmp_path):
    return load_training_data(str(write_samples(tmp_path)))


@pytest.fixture
def base(vision, text, processor, tmp_path) -> str:
    return save_langbridge(vision, text, processor, tmp_path / "base")


def train_lora(base, processor, dataset, output_dir, model=None, **options):
    model = model or AutoModelForImageTextToText.from_pretrained(base)
    options = {"train_language_model": "lora", "max_steps": 3, **options}
    trainer = make_trainer(model, processor, dataset, output_dir, **options)
    trainer.train()
    trainer.save_model()
    return trainer


def parts_of(names) -> set[str]:
    return {part_of(name) for name in names}


def test_lora_sits_on_the_language_model_alone_and_the_adapter_is_trained_in_full(base, processor, dataset, tmp_path):
    trainer = train_lora(base, processor, dataset, tmp_path / "out")
    model = trainer.model
    assert parts_of(name for name, module in model.named_modules() if isinstance(module, LoraLayer)) == {
        "language_model"
    }
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert parts_of(trained) == {"projector", "vocabulary_head", "language_model"}
    assert all("lora_" in name for name in trained if part_of(name) == "language_model")
    assert not any("lora_" in name for name in trained if part_of(name) != "language_model")


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "phi", "gemma3"])
def test_lora_finds_the_linear_layers_of_every_family(name, vision, dataset, tmp_path):
    text = save_language_model(name, tmp_path / "text")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor, projector_hidden_size=40
    )
    model = as_saved(model, processor, tmp_path / "base")
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", train_language_model="lora", max_steps=1)
    layers = [name for name, module in trainer.model.named_modules() if isinstance(module, LoraLayer)]
    assert len(layers) >= 2 * 4  # two decoder layers: attention in and out, MLP up and down
    assert parts_of(layers) == {"language_model"}
    trainer.train()


def test_lora_reaches_the_vision_tower_when_it_is_told_to(base, processor, dataset, tmp_path):
    trainer = train_lora(base, processor, dataset, tmp_path / "out", train_vision_tower="lora", max_steps=1)
    layers = [name for name, module in trainer.model.named_modules() if isinstance(module, LoraLayer)]
    assert parts_of(layers) == {"language_model", "vision_tower"}


def test_lora_on_the_tower_beside_a_whole_language_model_is_refused(base, processor, dataset, tmp_path):
    with pytest.raises(ValueError, match="`train_vision_tower` is lora and `train_language_model` full"):
        train_lora(base, processor, dataset, tmp_path / "out", train_vision_tower="lora", train_language_model="full")


def test_one_folder_holds_lora_and_adapter_and_loads(base, processor, dataset, tmp_path):
    trainer = train_lora(base, processor, dataset, tmp_path / "out")
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert parts_of(saved) == {"projector", "vocabulary_head", "language_model"}

    inputs = processor.apply_chat_template(
        ask(make_image()), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    trained = trainer.model.eval()
    with torch.no_grad():
        expected = trained(**inputs).logits
        untrained = AutoModelForImageTextToText.from_pretrained(base)(**inputs).logits
        by_transformers = AutoModelForImageTextToText.from_pretrained(base)
        by_transformers.load_adapter(tmp_path / "out")
        by_transformers = by_transformers.eval()(**inputs).logits
        loaded = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), tmp_path / "out").eval()
        by_peft = loaded(**inputs).logits
    assert (expected - untrained).abs().max() > 1e-3
    torch.testing.assert_close(by_peft, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_transformers, expected, atol=1e-5, rtol=0)


def test_the_adapter_alone_is_what_lora_trained(base, processor, dataset, tmp_path):
    trainer = train_lora(base, processor, dataset, tmp_path / "out")
    alone = load_file(tmp_path / "out" / "adapter" / "adapter.safetensors")
    merged = trainer.model.merge_and_unload()
    torch.testing.assert_close(
        alone["multi_modal_projector.linear_1.weight"], merged.model.multi_modal_projector.linear_1.weight
    )
    torch.testing.assert_close(alone["vocabulary_head.weight"], merged.model.vocabulary_head.weight)


@pytest.fixture
def quantised(base):
    pytest.importorskip("bitsandbytes")
    arguments = ModelArguments(model=base, load_in_4bit=True)
    return load_model(arguments, base=None, needs_folder=True)[0]


def test_an_output_layer_of_its_own_is_not_quantised(vision, tmp_path):
    pytest.importorskip("bitsandbytes")
    text = save_language_model("qwen2.5", tmp_path / "untied")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    base = save_langbridge(vision, text, processor, tmp_path / "langbridge")
    model, _ = load_model(ModelArguments(model=base, load_in_4bit=True), base=None, needs_folder=True)
    assert type(model.lm_head) is LangBridgeLMHead
    assert model.lm_head.weight.is_floating_point()


def test_four_bits_are_the_language_models_alone(quantised):
    in_4_bits = {part_of(name) for name, p in quantised.named_parameters() if type(p).__name__ == "Params4bit"}
    assert in_4_bits == {"language_model"}
    assert quantised.lm_head.weight.is_floating_point()
    quantised_layers = [name for name, p in quantised.model.named_parameters() if type(p).__name__ == "Params4bit"]
    assert len(quantised_layers) == 2 * 7  # all linear layers of both decoder layers


def test_qlora_trains_lora_and_the_adapter_in_float32_over_an_untouched_base(
    quantised, base, processor, dataset, tmp_path
):
    before = {name: p.detach().clone() for name, p in quantised.named_parameters()}
    trainer = train_lora(base, processor, dataset, tmp_path / "out", model=quantised)
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert parts_of(trained) == {"projector", "vocabulary_head", "language_model"}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    for name, parameter in trainer.model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")
        if plain in before and not parameter.requires_grad:
            assert torch.equal(parameter, before[plain]), name
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    projector = next(value for name, value in saved.items() if "linear_1.weight" in name)
    assert not torch.equal(projector, before["model.multi_modal_projector.linear_1.weight"])

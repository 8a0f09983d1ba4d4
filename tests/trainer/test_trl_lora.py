# SPDX-License-Identifier: Apache-2.0
"""LoRA by TRL's own trainer and PEFT alone, with the options that docs/training.md names for the adapter."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_parts import VISION, ask, make_image
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, CLIPVisionConfig, CLIPVisionModel
from trl import SFTConfig, SFTTrainer

from modeling_langbridge import LangBridgeForConditionalGeneration


ADAPTER = ["multi_modal_projector", "vocabulary_head"]


def train(model, processor, folder, lora: LoraConfig) -> PeftModel:
    """Two steps of TRL's trainer, saved in `folder`."""
    rows = [
        {
            "prompt": [{"role": "user", "content": "What is in the picture?"}],
            "completion": [{"role": "assistant", "content": f"a {colour} ball"}],
            "images": [make_image(colour)],
        }
        for colour in ("red", "blue", "green", "black")
    ]
    options = SFTConfig(
        output_dir=str(folder),
        max_length=None,
        max_steps=2,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    dataset = Dataset.from_list(rows)
    trainer = SFTTrainer(model, options, processing_class=processor, train_dataset=dataset, peft_config=lora)
    trainer.train()
    trainer.save_model()
    return trainer.model


@torch.no_grad()
def logits_of(model, processor) -> torch.Tensor:
    inputs = processor.apply_chat_template(
        ask(make_image()), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return model.eval()(**inputs).logits


def assert_the_adapter_moved(trained: PeftModel, base) -> None:
    parts = trained.get_base_model().model
    for name, before in (
        ("multi_modal_projector", base.model.multi_modal_projector.linear_2.weight),
        ("vocabulary_head", base.model.vocabulary_head.weight),
    ):
        copy = getattr(parts, name).modules_to_save["default"]
        after = copy.weight if name == "vocabulary_head" else copy.linear_2.weight
        assert (after.float() - before).abs().max() > 1e-3, name


def test_lora_on_all_layers_with_the_adapter_in_full_is_exact_after_reloading(model, processor, saved, tmp_path):
    lora = LoraConfig(target_modules="all-linear", modules_to_save=ADAPTER)
    base = AutoModelForImageTextToText.from_pretrained(saved / "model")
    trained = train(base, processor, tmp_path / "lora", lora)
    assert_the_adapter_moved(trained, model)
    again = AutoModelForImageTextToText.from_pretrained(saved / "model")
    loaded = PeftModel.from_pretrained(again, tmp_path / "lora")
    expected = logits_of(trained, processor)
    assert logits_of(loaded, processor).equal(expected)
    assert (expected - logits_of(model, processor)).abs().max() > 1e-3


def test_lora_on_all_layers_alone_leaves_the_vocabulary_head_frozen(model):
    wrapped = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    trained = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert any("multi_modal_projector" in name for name in trained)
    assert any("vision_tower" in name for name in trained)
    assert not any("vocabulary_head" in name for name in trained)


@pytest.mark.filterwarnings("ignore:target_modules")
def test_a_lora_on_the_heads_weight_is_exact_after_reloading(model, processor, saved, tmp_path):
    lora = LoraConfig(target_parameters=["vocabulary_head.weight"], init_lora_weights=False)
    wrapped = get_peft_model(AutoModelForImageTextToText.from_pretrained(saved / "model"), lora)
    wrapped.save_pretrained(tmp_path / "lora")
    loaded = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(saved / "model"), tmp_path / "lora")
    expected = logits_of(wrapped, processor)
    assert logits_of(loaded, processor).equal(expected)
    assert (expected - logits_of(model, processor)).abs().max() > 1e-3


def test_trls_qlora_over_a_plain_4_bit_load_trains_the_adapter_in_full(text, processor, tmp_path):
    pytest.importorskip("bitsandbytes")
    # Of a frozen tower on a CPU, bitsandbytes packs the weights anew, in blocks of 64.
    tower = CLIPVisionModel(CLIPVisionConfig(**{**VISION, "hidden_size": 64, "intermediate_size": 64}))
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        tower, text, list(range(100, 160)), processor, projector_hidden_size=40
    )
    model.save_pretrained(tmp_path / "model")
    quantised = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "model", quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    lora = LoraConfig(target_modules=r".*language_model.*\.(q_proj|v_proj)", modules_to_save=ADAPTER)
    assert_the_adapter_moved(train(quantised, processor, tmp_path / "lora", lora), model)

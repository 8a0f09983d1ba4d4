# SPDX-License-Identifier: Apache-2.0
"""The grounded adapter that ships with the package: small, complete, and at home in four families of tokenizers."""

import os
from pathlib import Path

import pytest
import torch
from matplotlib.cbook import get_sample_data
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EfficientNetConfig,
    EfficientNetImageProcessorPil,
    EfficientNetModel,
    LlamaConfig,
)

from modeling_langbridge import LangBridgeAdapter
from modeling_langbridge.adapter.adapter import SHIPPED


PARTS = Path(os.environ.get("LANGBRIDGE_CACHE") or "~/.cache/langbridge/parts").expanduser()


@pytest.fixture(scope="module")
def adapter() -> LangBridgeAdapter:
    return LangBridgeAdapter.grounded_efficientnet_lite0()


def test_the_folder_is_complete_and_small():
    names = {path.name for path in SHIPPED.iterdir()}
    assert names == {"README.md", "adapter.safetensors", "config.json", "training_record.json", "vocabulary.json"}
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 4_000_000


def test_the_card_says_what_it_may_be_used_for():
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert "non-commercial research" in card and "license: other" in card


@pytest.mark.parametrize("name", ["qwen2", "llama3", "smollm"])
def test_real_tokenizers_have_its_words_whole_and_their_language_models_are_handed_them(adapter, data, name):
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name)
    ids = adapter.locate_words(tokenizer)
    assert tokenizer.batch_decode([[word] for word in ids[:3]]) == list(adapter.vocabulary.surfaces[:3])

    text = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )
    config = EfficientNetConfig(width_coefficient=1.0, depth_coefficient=0.1, hidden_dim=1280, image_size=64)
    tower = EfficientNetModel(config)
    model, processor = adapter.join(tower, text, EfficientNetImageProcessorPil(), tokenizer, words_per_image=8)
    with torch.no_grad():
        (words,) = model.get_image_features(torch.randn(1, 3, 64, 64)).pooler_output  # (8, d)
    embeddings = model.get_input_embeddings().weight
    ids = [(embeddings == word).all(1).nonzero().item() for word in words]
    assert len(set(ids)) == 8 and set(tokenizer.batch_decode([[word] for word in ids])) <= set(
        adapter.vocabulary.surfaces
    )


def test_it_reads_a_photo_of_a_person(adapter):
    """Grace Hopper's, with the real tower."""
    if not (PARTS / "efficientnet_lite0").is_dir():
        pytest.skip(f"no efficientnet_lite0 in {PARTS}: `make parts` fetches it")
    model, processor = adapter.join(str(PARTS / "efficientnet_lite0"))
    image = processor.open_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    pixel_values = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        strongest = model.get_image_coefficients(pixel_values)[0].sum(0).topk(8).indices
    assert {" man", " woman"} & {adapter.vocabulary.surfaces[word] for word in strongest}

# SPDX-License-Identifier: Apache-2.0
"""A model told from configurations is the one that training loads: the same tensors, without reading a weight."""

from pathlib import Path

import pytest
from tiny_parts import SENTENCES, make_tokenizer, save_language_model, save_vision_tower
from tiny_training import save_langbridge

from modeling_langbridge import LangBridgeAdapter, LangBridgeProcessor, SharedVocabulary
from trainer.model_loading import ModelArguments, load_model
from trainer.planning.described_model import describe_model, largest_image


def shapes(model) -> dict[str, tuple]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


def assert_described(tmp_path: Path, **options) -> None:
    """That the model and the processor are told before the weights are there, as they are loaded afterwards."""
    arguments = ModelArguments(**options)
    weights = sorted(tmp_path.rglob("model.safetensors"))
    for file in weights:
        file.rename(file.with_suffix(".away"))
    described, processor = describe_model(arguments, needs_folder=False)
    for file in weights:
        file.with_suffix(".away").rename(file)
    loaded, loaded_processor = load_model(arguments, tmp_path / "base", needs_folder=False)
    assert {parameter.device.type for parameter in described.parameters()} == {"meta"}
    assert type(described) is type(loaded)
    assert shapes(described) == shapes(loaded)
    assert processor.num_image_tokens == loaded_processor.num_image_tokens


@pytest.fixture
def parts(tmp_path):
    def save(tower: str = "clip", language_model: str = "qwen2", **options) -> dict:
        SharedVocabulary.build([make_tokenizer()], SENTENCES, 60).save(tmp_path / "words.json")
        words = {} if options.get("adapter_type") == "mlp" else {"vocabulary": str(tmp_path / "words.json")}
        return {
            "vision_tower": save_vision_tower(tower, tmp_path / tower),
            "language_model": save_language_model(language_model, tmp_path / language_model),
            "projector_hidden_size": 40,
            **words,
            **options,
        }

    return save


@pytest.mark.parametrize("tower", ["clip", "whole_clip", "siglip", "dinov2", "mobilenet_v2"])
def test_towers(parts, tmp_path, tower):
    assert_described(tmp_path, **parts(tower))


@pytest.mark.parametrize("language_model", ["gpt2", "phi", "gemma3", "gpt_neox"])
def test_language_models(parts, tmp_path, language_model):
    assert_described(tmp_path, **parts(language_model=language_model))


@pytest.mark.parametrize(
    "options",
    [
        {"adapter_type": "mlp"},
        {"coefficient_activation": "gated_softmax", "words_per_image": 5},
        {"pool_patches": 2},
        {"model_type": "langbridge_next", "image_grid_pinpoints": ["32x64", "64x64"]},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
def test_kinds_of_adapters(parts, tmp_path, options):
    assert_described(tmp_path, **parts(**options))


def test_a_model_that_exists(vision, text, tmp_path):
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    folder = save_langbridge(vision, text, processor, tmp_path / "model")
    assert_described(tmp_path, model=folder)


def test_an_adapter_that_exists(vision, text, parts, tmp_path):
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, pool_patches=2)
    folder = save_langbridge(vision, text, processor, tmp_path / "model", coefficient_activation="gated_softmax")
    model, processor = load_model(ModelArguments(model=folder), tmp_path / "base", needs_folder=False)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    new = parts(adapter=str(tmp_path / "adapter"))
    assert_described(tmp_path, **{name: new[name] for name in ("vision_tower", "language_model", "adapter")})


def test_the_image_with_most_tokens_counts_in_tiles(parts):
    options = parts(model_type="langbridge_next", image_grid_pinpoints=["32x64", "64x64"])
    model, processor = describe_model(ModelArguments(**options), needs_folder=False)
    image, num_tokens = largest_image(model, processor)
    assert image["image_sizes"].tolist() == [[64, 64]]
    assert num_tokens == 16 + 8 * 9  # the whole image, and 8 rows of 8 patches and a newline

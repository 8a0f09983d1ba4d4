# SPDX-License-Identifier: Apache-2.0
"""The adapter on its own: it says the same with another language model, and what does not fit is refused by name."""

import json
import re
import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_parts import (
    OTHER_SENTENCES,
    SENTENCES,
    make_tokenizer,
    save_language_model,
    save_other_language_model,
    save_vision_tower,
    see,
)
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, pipeline

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
)


FILES = ["adapter.safetensors", "config.json", "vocabulary.json"]


@pytest.fixture(scope="module")
def other_text(tmp_path_factory) -> str:
    return save_other_language_model(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def vocabulary() -> SharedVocabulary:
    return SharedVocabulary.build([make_tokenizer(), make_tokenizer(OTHER_SENTENCES)], SENTENCES + OTHER_SENTENCES, 50)


@pytest.fixture
def compose(vision, text, processor, vocabulary):
    """Composes a model on the vocabulary, with an adapter as random as if it had been trained."""

    def compose(seed: int = 0, words=vocabulary, text=text, **fields) -> LangBridgeForConditionalGeneration:
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, words, processor=processor, **{"projector_hidden_size": 40, **fields}
        )
        torch.manual_seed(seed)
        for part in (model.model.multi_modal_projector, model.model.vocabulary_head):
            for parameter in part.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return compose


@pytest.fixture
def saved(compose, processor, tmp_path) -> Path:
    LangBridgeAdapter.from_model(compose(), processor.tokenizer).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def adapter_state(model) -> dict[str, torch.Tensor]:
    parts = ("model.multi_modal_projector.", "model.vocabulary_head.")
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith(parts)}


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(path: Path, **changes) -> None:
    tensors = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


# There and back


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"coefficient_activation": "gated_softmax"},
        {"multimodal_projector_bias": False, "projector_hidden_act": "relu", "vision_feature_layer": [-2, -1]},
    ],
    ids=["linear", "gated_softmax", "two_layers_without_bias"],
)
def test_a_saved_adapter_says_the_same_in_a_fresh_model(
    compose, processor, vision, text, vocabulary, pixel_values, tmp_path, fields
):
    model = compose(**fields)
    expected = see(model, processor, pixel_values)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")

    other = compose(seed=1, words=SharedVocabulary(reversed(vocabulary.surfaces)), **fields)
    before = see(other, processor, pixel_values)  # folds the adapter, which must not outlive its weights
    assert not torch.allclose(before[0], expected[0])
    LangBridgeAdapter.from_pretrained(tmp_path / "adapter").load_onto(other, processor.tokenizer)
    for composed in (other, LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(vision, text)[0]):
        for found, wanted in zip(see(composed, processor, pixel_values), expected, strict=True):
            assert torch.equal(found, wanted)
    feature_size = json.loads((tmp_path / "adapter" / "config.json").read_text())["vision_feature_size"]
    assert feature_size == model.model.multi_modal_projector.linear_1.in_features


@pytest.mark.parametrize("activation", ["linear", "gated_softmax"])
def test_on_another_language_model_it_says_the_same_words(
    compose, processor, vision, other_text, vocabulary, pixel_values, tmp_path, activation
):
    model = compose(coefficient_activation=activation)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    other = LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(vision, other_text)[0]

    with torch.no_grad():
        assert torch.equal(other.get_image_coefficients(pixel_values), model.get_image_coefficients(pixel_values))
    ids, other_ids = (m.model.vocabulary_head.token_ids.tolist() for m in (model, other))
    assert sum(a != b for a, b in zip(ids, other_ids, strict=True)) > 5
    other_tokenizer = make_tokenizer(OTHER_SENTENCES)
    assert tuple(other_tokenizer.decode(i) for i in other_ids) == vocabulary.surfaces
    assert tuple(processor.tokenizer.decode(i) for i in ids) == vocabulary.surfaces
    other_processor = LangBridgeProcessor.from_vision_text_pretrained(vision, other_text)
    visual_tokens, logits = see(other, other_processor, pixel_values)
    assert visual_tokens.shape == (32, 48) and logits.isfinite().all()


def test_a_convolutional_towers_adapter_comes_back_the_same(text, vocabulary, tmp_path):
    vision = save_vision_tower("mobilenet_v2", tmp_path / "tower")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=40
    )
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    again, _ = LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(vision, text)
    assert again.model.multi_modal_projector.linear_1.weight.equal(model.model.multi_modal_projector.linear_1.weight)


def test_loading_keeps_dtype_and_what_is_trained(compose, processor, saved):
    model = compose(seed=1).to(torch.bfloat16)
    model.model.multi_modal_projector.requires_grad_(False)
    parameters = dict(model.named_parameters())
    LangBridgeAdapter.from_pretrained(saved).load_onto(model, processor.tokenizer)
    for name, tensor in load_file(saved / "adapter.safetensors").items():
        parameter = model.get_parameter(f"model.{name}")
        assert parameter is parameters[f"model.{name}"]  # an optimizer may hold it
        assert torch.equal(parameter, tensor.to(torch.bfloat16))
        assert parameter.requires_grad == name.startswith("vocabulary_head.")


def test_a_gathered_state_is_saved_in_place_of_the_models_own(compose, processor, tmp_path):
    model, gathered = compose(), compose(seed=1).state_dict()
    gathered = {name: tensor.to(torch.bfloat16) for name, tensor in gathered.items() if "token_ids" not in name}
    LangBridgeAdapter.from_model(model, processor.tokenizer, gathered).save_pretrained(tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter.safetensors")
    assert len(tensors) == 6
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, gathered[f"model.{name}"])


# The files


def test_the_files_hold_words_and_weights_but_no_ids_and_no_paths(compose, processor, text, vision, tmp_path):
    model = compose(coefficient_activation="gated_softmax")
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == FILES
    with safe_open(tmp_path / "adapter" / "adapter.safetensors", "pt") as file:
        assert file.metadata().keys() == {"vocabulary_sha256"}
        assert sorted(file.keys()) == [
            *(f"multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("bias", "weight")),
            *(f"vocabulary_head.{name}" for name in ("bias", "gate_bias", "gate_weight", "weight")),
        ]
        assert all(file.get_tensor(name).is_floating_point() for name in file.keys())
    assert json.loads((tmp_path / "adapter" / "config.json").read_text()) == {
        "model_type": "langbridge_adapter",
        "projector_hidden_size": 40,
        "bridge_vocab_size": 50,
        "coefficient_activation": "gated_softmax",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vision_feature_size": 24,
        "vision_model_type": "clip_vision_model",
    }
    assert (tmp_path / "adapter").stat().st_mode & 0o777 == 0o755
    for name in FILES:
        assert (tmp_path / "adapter" / name).stat().st_mode & 0o444 == 0o444  # a colleague may read it
        content = (tmp_path / "adapter" / name).read_bytes()
        assert not any(str(path).encode() in content for path in (text, vision, tmp_path, Path.home()))


def test_an_existing_folder_is_left_as_it_is(compose, processor, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(FileExistsError, match=f"{re.escape(str(saved))} exists and is not an empty folder"):
        LangBridgeAdapter.from_model(compose(seed=1), processor.tokenizer).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_an_empty_folder_can_be_filled(compose, processor, tmp_path):
    (tmp_path / "adapter").mkdir()
    LangBridgeAdapter.from_model(compose(), processor.tokenizer).save_pretrained(tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == FILES


def test_words_that_cannot_be_named_leave_nothing_behind(compose, processor, tmp_path):
    dog, byte = processor.tokenizer.convert_tokens_to_ids(["Ġdog", "Ã"])  # "Ã" is the first byte of é
    model = compose(words=[dog, byte, processor.image_token_id])
    with pytest.raises(ValueError, match=rf"^2 of the 3 token ids are not ordinary words .* {byte}, "):
        LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "new" / "adapter")
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_midway_leaves_nothing_behind(compose, processor, tmp_path):
    model = compose()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # enough for the two small files
    try:
        with pytest.raises(Exception, match="File too large"):
            LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_state_that_is_not_the_adapters_is_refused(compose, processor, tmp_path):
    model = compose()
    state = model.state_dict()
    name = "model.vocabulary_head.weight"
    wrapped = {f"base_model.model.{key}": tensor for key, tensor in state.items()}  # as PEFT has it
    for wrong, complaint in [
        ({**state, name: state[name].flatten()}, r"`vocabulary_head.weight` is \[2000\] in the adapter but \[50, 40"),
        ({**state, f"{name}.scale": state[name]}, r"`vocabulary_head.weight.scale` is \[50, 40\] .* but missing in"),
        (wrapped, r"`multi_modal_projector.linear_1.weight` is missing in the adapter"),
    ]:
        with pytest.raises(ValueError, match=rf"^The model's adapter: its weights are not whole .*\({complaint}"):
            LangBridgeAdapter.from_model(model, processor.tokenizer, wrong).save_pretrained(tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


# What does not fit


def refused(model, tokenizer, folder, complaint: str, error=ValueError) -> None:
    """Loading raises one sentence, and leaves the model as it was."""
    before = adapter_state(model)
    with pytest.raises(error, match=complaint) as raised:
        LangBridgeAdapter.from_pretrained(folder).load_onto(model, tokenizer)
    assert "\n" not in str(raised.value)
    after = adapter_state(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("field", "of_the_adapter", "of_the_model"),
    [
        ("projector_hidden_size", 40, 44),
        ("coefficient_activation", "linear", "softmax"),
        ("projector_hidden_act", "gelu", "relu"),
        ("multimodal_projector_bias", True, False),
        ("vision_feature_layer", -2, -1),
    ],
)
def test_a_model_of_another_shape_is_refused(compose, processor, saved, field, of_the_adapter, of_the_model):
    model = compose(seed=1, **{field: of_the_model})
    complaint = (
        rf"does not fit the model .*`{field}` is {of_the_adapter} in the adapter but {of_the_model} in the model\)"
    )
    refused(model, processor.tokenizer, saved, complaint)


def test_a_model_of_fewer_words_or_with_cls_is_refused(compose, processor, saved, vocabulary):
    fewer = compose(words=vocabulary.first(49))
    refused(fewer, processor.tokenizer, saved, "`bridge_vocab_size` is 50 in the adapter but 49 in the model")
    model = compose()
    model.config.vision_feature_select_strategy = "full"
    complaint = "`vision_feature_select_strategy` is default in the adapter but full in the model"
    refused(model, processor.tokenizer, saved, complaint)


@pytest.mark.parametrize(
    ("tower", "complaint"),
    [
        ("convnext", "`vision_feature_size` is 24 in the adapter but 20 in the model"),
        ("dinov2", "`vision_model_type` is clip_vision_model in the adapter but dinov2 in the model"),
    ],
)
def test_features_of_another_tower_are_refused(saved, text, tmp_path, tower, complaint):
    vision = save_vision_tower(tower, tmp_path / tower)
    with pytest.raises(ValueError, match=complaint):
        LangBridgeAdapter.from_pretrained(saved).join(vision, text)[0]


def test_words_that_a_language_model_lacks_are_named(compose, processor, saved, vision, tmp_path):
    adapter = LangBridgeAdapter.from_pretrained(saved)
    words = [*adapter.vocabulary.surfaces[:3], " xylophone", " zebra", *adapter.vocabulary.surfaces[5:]]
    saved = tmp_path / "other_words"
    LangBridgeAdapter(adapter.config, SharedVocabulary(words), adapter.weights).save_pretrained(saved)
    complaint = (
        r"2 of the 50 surfaces are not single tokens .*' xylophone', ' zebra'.*`split_words`: leave_out, mean, or comb"
    )
    refused(compose(seed=1), processor.tokenizer, saved, complaint)
    text = save_language_model("llama2", tmp_path / "llama2")
    with pytest.raises(ValueError, match=complaint):
        LangBridgeAdapter.from_pretrained(saved).join(vision, text)[0]


def test_a_tokenizer_of_a_larger_language_model_is_refused(compose, processor, saved, vocabulary):
    model = compose(seed=1)
    model.resize_token_embeddings(300)
    highest = max(vocabulary.token_ids(processor.tokenizer))
    assert highest >= 300
    refused(model, processor.tokenizer, saved, f"under ids up to {highest}, but the model has 300 embeddings")


# Damaged and missing files


def test_a_missing_folder_or_file_is_named(compose, processor, saved, vision, text):
    model, tokenizer = compose(seed=1), processor.tokenizer
    refused(model, tokenizer, saved / "absent", "There is no folder .*absent", FileNotFoundError)
    for name in FILES:
        (saved / name).rename(saved / "away")
        refused(model, tokenizer, saved, f"There is no {name} in {re.escape(str(saved))}:", FileNotFoundError)
        with pytest.raises(FileNotFoundError, match=f"There is no {name} in"):
            LangBridgeAdapter.from_pretrained(saved).join(vision, text)[0]
        (saved / "away").rename(saved / name)


@pytest.mark.parametrize("load", [AutoConfig, AutoModel, AutoModelForImageTextToText])
def test_who_asks_transformers_for_a_model_is_told_what_an_adapter_is(saved, load):
    with pytest.raises(ValueError, match="This is a LangBridge adapter alone, .* join it with both by `Lang"):
        load.from_pretrained(saved)
    with pytest.raises(ValueError, match="This is a LangBridge adapter alone"):
        pipeline("image-text-to-text", model=str(saved))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"projector_hidden_size": 4', "config.json is damaged, it is not JSON"),
        (b"\xff\xfe\x00", "config.json is damaged, it is not JSON"),
        (b"[40]", "config.json is damaged, it must be a JSON object with the fields projector_hidden_size, "),
        (b'{"model_type": "langbridge_adapter"}', "config.json is damaged, it lacks the fields projector_hidden_size"),
        (b'{"model_type": "langbridge"}', "config.json does not belong to an adapter alone"),
    ],
)
def test_a_damaged_configuration_is_refused(compose, processor, saved, content, complaint):
    (saved / "config.json").write_bytes(content)
    refused(compose(seed=1), processor.tokenizer, saved, complaint)


def test_a_field_from_the_future_is_refused(compose, processor, saved):
    change_json(saved / "config.json", pooling=2)
    refused(compose(seed=1), processor.tokenizer, saved, "config.json has fields unknown to this version, pooling")


def test_words_of_another_number_than_v_are_refused(compose, processor, saved, vocabulary):
    vocabulary.first(49).save(saved / "vocabulary.json")
    complaint = "its vocabulary has 49 words, but `bridge_vocab_size` is 50"
    refused(compose(seed=1), processor.tokenizer, saved, complaint)


def test_wrong_tensors_are_named(compose, processor, saved):
    model, path = compose(seed=1), saved / "adapter.safetensors"
    whole = path.read_bytes()
    for name, tensor, complaint in [
        ("vocabulary_head.bias", None, r"`vocabulary_head.bias` is missing in the adapter but \[50\] in the conf"),
        ("vocabulary_head.bias", torch.ones(1), r"`vocabulary_head.bias` is \[1\] in the adapter but \[50\]"),
        ("gate", torch.ones(1, 2), r"`gate` is \[1, 2\] in the adapter but missing in the configuration"),
    ]:
        change_tensors(path, **{name: tensor})
        refused(model, processor.tokenizer, saved, complaint)
        path.write_bytes(whole)
    path.write_bytes(whole[:-8])
    refused(model, processor.tokenizer, saved, "adapter.safetensors is damaged")

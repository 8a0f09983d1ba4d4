# SPDX-License-Identifier: Apache-2.0
"""What an explanation says of a photo is what the model computes, whatever its coefficients and its language model."""

import json

import pytest
import torch
from largest_tensor import LargestTensor
from PIL import Image
from tiny_parts import ask, make_image, save_language_model
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, SharedVocabulary, lift, to_llava
from modeling_langbridge.reading.explaining import explain
from modeling_langbridge.reading.logit_lens import read_layers
from modeling_langbridge.reading.patch_words import strongest_words


ACTIVATIONS = ["linear", "softmax", "gated_softmax"]


@torch.no_grad()
def look(model, processor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients (16, V), visual tokens (16, d) and embeddings (V, d), the plain way."""
    pixel_values = processor.image_processor(make_image(), return_tensors="pt")["pixel_values"]
    tokens = model.get_image_features(pixel_values).pooler_output[0]
    return model.get_image_coefficients(pixel_values)[0], tokens, model.model.get_word_embeddings()


def view_of(explanation, name: str):
    return next(view for view in explanation.views if view.name == name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_coefficients_energy_entropy_and_gate_are_those_of_a_plain_computation(vision, text, activation):
    model, processor = compose(vision, text, coefficient_activation=activation)
    explanation = explain(model, processor, make_image(), top=3)
    coefficients, tokens, embeddings = look(model, processor)
    assert explanation.patches == strongest_words(model, processor, make_image(), top=3).patches
    for place, (patch, token) in enumerate(zip(coefficients, tokens, strict=True)):
        row, column = divmod(place, 4)
        words = sorted(range(len(patch)), key=lambda word: -abs(patch[word]))[:3]  # noqa: B023
        partial = sum(patch[word] * embeddings[word] for word in words)
        projection = max(0, partial @ token) / token.norm() ** 2 * token
        expected = projection.norm() ** 2 / token.norm() ** 2
        torch.testing.assert_close(explanation.energy[row, column], expected)
        p = patch.abs() / patch.abs().sum()
        torch.testing.assert_close(explanation.entropy[row, column], -(p * (p + 1e-30).log()).sum())
        if activation == "gated_softmax":
            torch.testing.assert_close(explanation.gate[row, column], patch.sum())
    assert (explanation.gate is None) == (activation != "gated_softmax")


def test_all_words_together_carry_all_energy(vision, text):
    model, processor = compose(vision, text)
    energy = explain(model, processor, make_image(), top=1000).energy
    torch.testing.assert_close(energy, torch.ones(4, 4))


def test_words_that_point_away_from_the_token_carry_nothing(vision, text):
    model, processor = compose(vision, text, coefficient_activation="softmax", linear_remainder=True)
    head = model.model.vocabulary_head
    torch.nn.init.normal_(head.remainder_weight, std=50)
    coefficients, tokens, embeddings = look(model, processor)
    along = (coefficients @ embeddings * tokens).sum(1).unflatten(0, (4, 4))
    assert (along < 0).any() and (along > 0).any()
    energy = explain(model, processor, make_image(), top=1000).energy
    assert ((energy > 0) == (along > 0)).all()


def test_cosine_neighbours_are_the_words_nearest_to_the_visual_token(vision, text):
    model, processor = compose(vision, text)
    names = strongest_words(model, processor, make_image()).names
    explanation = explain(model, processor, make_image(), top=2, words=[names[3]])
    _, tokens, embeddings = look(model, processor)
    expected = torch.nn.functional.cosine_similarity(tokens[:, None], embeddings, dim=-1)  # (16, V)
    cosine = view_of(explanation, "cosine")
    numbers, words = expected.topk(2)
    for place in range(16):
        nearest = zip(words[place].tolist(), numbers[place].tolist(), strict=True)
        ranked = [(names[word], pytest.approx(number)) for word, number in nearest]
        assert cosine.patches[place // 4][place % 4] == ranked
    torch.testing.assert_close(cosine.maps[names[3]].flatten(), expected[:, 3])
    assert "as the official LangBridge tool" in cosine.about


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gpt_neox", "phi", "gemma2_untied", "gemma3"])
def test_the_last_layer_says_what_the_language_model_says_next(vision, family, tmp_path):
    model, processor = compose(vision, save_language_model(family, tmp_path), coefficient_activation="softmax")
    if model.lm_head.bias is not None:
        torch.nn.init.normal_(model.lm_head.bias)
    inputs = processor.apply_chat_template(
        ask(make_image(), "what?"), tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits[inputs["input_ids"] == processor.image_token_id]  # (16, vocabulary)
        expected = logits[:, model.model.vocabulary_head.token_ids].softmax(-1)  # (16, V)
        _, tokens, _ = look(model, processor)
        layers = dict(read_layers(model, processor, make_image(), tokens, 4))
    assert list(layers) == [1, 2]
    torch.testing.assert_close(layers[2], expected)
    assert not torch.allclose(layers[1], expected)
    torch.testing.assert_close(layers[1].sum(-1), torch.ones(16))


def test_an_earlier_layer_is_normed_before_it_is_read(vision, text):
    model, processor = compose(vision, text)
    torch.nn.init.normal_(model.model.language_model.norm.weight)
    _, tokens, _ = look(model, processor)
    seen = {}
    with torch.no_grad():
        layer = model.model.language_model.layers[0]
        hook = layer.register_forward_hook(lambda _, inputs, output: seen.update(states=output))
        first = dict(read_layers(model, processor, make_image(), tokens, 2))[1]
        hook.remove()
        places = range(seen["states"].shape[1])
        logits = model.lm_head(model.model.language_model.norm(seen["states"][0]))
        expected = logits[:, model.model.vocabulary_head.token_ids].softmax(-1)
    assert any(torch.allclose(first[0], expected[place], atol=1e-6) for place in places)
    assert not model.model.language_model.norm._forward_hooks


def test_words_that_the_language_model_splits_have_no_probability_and_are_counted(vision, tmp_path):
    model, processor = compose(vision, save_language_model("qwen2", tmp_path))
    adapter = LangBridgeAdapter.from_model(model, processor.tokenizer)
    surfaces = [*adapter.vocabulary.surfaces[:-2], " zebra", " quizzical"]
    adapter.vocabulary = SharedVocabulary(surfaces)
    model, processor = adapter.join(vision, str(tmp_path), processor.image_processor, split_words="leave_out")
    explanation = explain(model, processor, make_image(), words=["zebra"])
    assert explanation.notes[-1].startswith("2 words are left out")
    assert not view_of(explanation, "layer 2 of 2").maps["zebra"].any()
    assert view_of(explanation, "layer 2 of 2").maps["zebra"].shape == (4, 4)


def test_a_word_that_is_asked_for_has_a_map_in_every_view_however_weak_it_is(vision, text):
    model, processor = compose(vision, text, coefficient_activation="softmax")
    words = strongest_words(model, processor, make_image())
    weakest = words.names[words.coefficients.sum((0, 1)).argmin()]
    explanation = explain(model, processor, make_image(), top=1, words=[weakest])
    assert [weakest in view.maps for view in explanation.views] == [True] * 4
    torch.testing.assert_close(explanation.views[0].maps[weakest], words.coefficients[..., words.names.index(weakest)])
    assert weakest not in explain(model, processor, make_image(), top=1).views[0].maps


def test_the_photos_words_have_strengths_and_places(vision, text):
    model, processor = compose(vision, text, coefficient_activation="gated_softmax")
    explanation = explain(model, processor, make_image())
    words = strongest_words(model, processor, make_image())
    assert explanation.photo == words.photo
    for word, _ in explanation.photo:
        numbers = words.coefficients[..., words.names.index(word)]
        places = explanation.places(word)
        assert len(places) == 5
        assert [numbers[place].item() for place in places] == numbers.flatten().topk(5).values.tolist()


def test_where_coefficients_are_not_identifiable_it_is_said(vision, text):
    wide, narrow = compose(vision, text), compose(vision, text)  # 41 words, 32 dimensions
    assert "not identifiable: there are 41 words, and only 32 dimensions" in explain(*wide, make_image()).notes[0]
    narrow[0].config.bridge_vocab_size = 32
    assert not explain(*narrow, make_image()).notes
    assert not explain(*compose(vision, text, coefficient_activation="softmax"), make_image()).notes


def test_an_image_handed_over_as_words_has_no_tokens_of_patches(vision, text):
    model, processor = compose(vision, text, coefficient_activation="gated_softmax", words_per_image=3)
    explanation = explain(model, processor, make_image())
    assert [view.name for view in explanation.views] == ["coefficients"]
    assert explanation.energy is None and len(explanation.photo) == 3
    assert "reads the photo's 3 strongest words" in explanation.notes[0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_adapter_alone_is_explained_without_a_language_model(vision, text, activation):
    joined, processor = compose(vision, text, coefficient_activation=activation)
    adapter = LangBridgeAdapter.from_model(joined, processor.tokenizer)
    alone = adapter.join(vision)
    explanation = explain(*alone, make_image(), has_language_model=False)
    assert explanation.patches == explain(joined, processor, make_image()).patches
    assert [view.name for view in explanation.views] == ["coefficients"] and explanation.energy is None
    assert explanation.notes[0].startswith("An adapter alone")
    assert any("mostly fewer dimensions" in note for note in explanation.notes) == (activation == "linear")


def test_a_stock_llava_is_explained_through_lifting(vision, text):
    model, processor = compose(vision, text, projector_hidden_size=32)
    llava, llava_processor = to_llava(model, processor)
    vocabulary = SharedVocabulary.from_token_ids(processor.tokenizer, model.model.get_word_ids())
    lifted, lifted_processor, _ = lift(llava, llava_processor, vocabulary)
    ours, theirs = explain(model, processor, make_image()), explain(lifted, lifted_processor, make_image())
    for name in ("cosine", "layer 1 of 2", "layer 2 of 2"):
        for row, other in zip(view_of(ours, name).patches, view_of(theirs, name).patches, strict=True):
            assert [[word for word, _ in patch] for patch in row] == [[word for word, _ in patch] for patch in other]


def test_nothing_larger_than_one_images_coefficients_is_made_and_only_the_listed_words_are_kept(
    vision, text, processor
):
    num_words = 400
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(num_words)), processor, projector_hidden_size=40, coefficient_activation="softmax"
    )
    with LargestTensor() as largest:
        explanation = explain(model, processor, make_image(), top=2)
    assert largest.numel == model.model.vocabulary_head.weight.numel()  # 400 x 40; a coefficient each is 16 x 400
    for view in explanation.views:
        assert len(view.maps) <= 16 + 4
        for numbers in view.maps.values():
            assert numbers.untyped_storage().nbytes() == 16 * 4


def test_json_holds_everything_with_four_digits(vision, text):
    model, processor = compose(vision, text, coefficient_activation="gated_softmax")
    explanation = explain(model, processor, make_image())
    content = json.loads(json.dumps(explanation.to_dict()))
    assert content["grid"] == [4, 4] and content["notes"] == explanation.notes
    assert [view["name"] for view in content["views"]] == [view.name for view in explanation.views]
    word, number = explanation.patches[2][1][0]
    assert content["views"][0]["patches"][2][1][0] == [word, float(f"{number:.4g}")]
    word, share = explanation.photo[0]
    assert content["photo"][0]["word"] == word
    assert content["photo"][0]["places"] == [list(place) for place in explanation.places(word)]
    assert content["energy"][3][0] == float(f"{explanation.energy[3, 0].item():.4g}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"words": ["dg"]}, r"“dg” is not one of the adapter's 41 words: the nearest are dog, "),
        ({"words": ["dog", ""]}, "“” is not one of"),
        ({"top": 0}, "`top` is 0: give the number of words"),
        ({"num_layers": -1}, "`num_layers` is -1: give a number of layers"),
        ({"image": "absent.png"}, "absent.png does not exist"),
        ({"image": b"no image"}, "of no format that can be decoded"),
    ],
)
def test_what_cannot_be_explained_is_refused(vision, text, options, sentence):
    model, processor = compose(vision, text)
    with pytest.raises(ValueError, match=sentence):
        explain(model, processor, **{"image": make_image(), **options})


def test_adapters_without_words_and_damaged_ones_are_refused(vision, text):
    with pytest.raises(ValueError, match="`explain` needs an adapter made of words"):
        explain(*compose(vision, text, adapter_type="mlp"), make_image())
    model, processor = compose(vision, text)
    model.model.vocabulary_head.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="not finite: its weights are damaged"):
        explain(model, processor, Image.new("RGB", (40, 40)))


def test_a_language_model_of_too_few_positions_has_no_layers_and_the_rest_is_shown(vision, tmp_path):
    model, processor = compose(vision, save_language_model("gpt2", tmp_path / "gpt2"))
    assert len(explain(model, processor, make_image()).views) == 4
    model.config.text_config.n_positions = 12
    explanation = explain(model, processor, make_image())
    assert [view.name for view in explanation.views] == ["coefficients", "cosine"]
    assert "has 12 positions (`max_position_embeddings`)" in explanation.notes[-1]
    silent = explain(model, processor, make_image(), num_layers=0)
    assert not any("positions" in note for note in silent.notes)

# SPDX-License-Identifier: Apache-2.0
"""Another language model: the adapter says the same words there, loses nothing on the way, and comes back the same."""

import itertools
import json

import pytest
import torch
from real_tokenizers import TOKENIZERS, save_real_sized
from tiny_parts import OTHER_SENTENCES, SENTENCES, make_tokenizer, save_other_language_model, see
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
)

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
    transfer,
)


ACTIVATIONS = ["linear", "softmax", "gated_softmax"]


@pytest.fixture(scope="module")
def other_text(tmp_path_factory) -> str:
    return save_other_language_model(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def vocabulary() -> SharedVocabulary:
    """Words of the first tokenizer, 21 of which the other one lacks."""
    return SharedVocabulary.build([make_tokenizer()], SENTENCES, 60)


@pytest.fixture
def compose(vision, text, processor, vocabulary):
    """Composes a model on the vocabulary, with an adapter as random as if it had been trained."""

    def compose(words=vocabulary, **fields) -> LangBridgeForConditionalGeneration:
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, words, processor=processor, **{"projector_hidden_size": 40, **fields}
        )
        randomise(model)
        return model

    return compose


def randomise(model) -> None:
    torch.manual_seed(0)
    for part in (model.model.multi_modal_projector, model.model.vocabulary_head):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def lacking(vocabulary, tokenizer) -> torch.Tensor:
    return torch.tensor([len(pieces) > 1 for pieces in vocabulary.piece_ids(tokenizer)])


@pytest.mark.parametrize("split_words", ["leave_out", "mean", "combine"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_there_and_back_it_says_exactly_the_same(
    compose, processor, text, other_text, vocabulary, pixel_values, activation, split_words
):
    model = compose(coefficient_activation=activation)
    before = see(model, processor, pixel_values)
    other, its_processor = transfer(model, processor, other_text, split_words=split_words)
    assert lacking(vocabulary, its_processor.tokenizer).sum() == 21
    assert other.config.text_config.hidden_size == 48 and see(other, its_processor, pixel_values)[0].shape[1] == 48
    back, back_processor = transfer(other, its_processor, text, split_words=split_words)
    for found, expected in zip(see(back, back_processor, pixel_values), before, strict=True):
        assert found.equal(expected)
    for found, expected in zip(see(model, processor, pixel_values), before, strict=True):
        assert found.equal(expected)  # nor has the way there changed the first


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_words_that_are_cut_are_left_out_and_distributions_renormalised(
    compose, processor, other_text, vocabulary, pixel_values, activation
):
    model = compose(coefficient_activation=activation)
    other, its_processor = transfer(model, processor, other_text)
    whole = ~lacking(vocabulary, its_processor.tokenizer)
    index = [pieces[0] for pieces in vocabulary.piece_ids(its_processor.tokenizer) if len(pieces) == 1]
    words = other.get_input_embeddings()(torch.tensor(index))  # (whole words, d)
    with torch.no_grad():
        coefficients = model.get_image_coefficients(pixel_values)[..., whole]
        if activation != "linear":
            gates = model.get_image_coefficients(pixel_values).sum(-1, keepdim=True)
            coefficients = gates * coefficients / coefficients.sum(-1, keepdim=True)
        expected = coefficients @ words
        found = torch.stack(other.get_image_features(pixel_values).pooler_output)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(other.get_image_coefficients(pixel_values)[..., whole], coefficients)
        assert not other.get_image_coefficients(pixel_values)[..., ~whole].any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_or_they_are_the_mean_of_their_pieces(compose, processor, other_text, vocabulary, pixel_values, activation):
    model = compose(coefficient_activation=activation)
    other, its_processor = transfer(model, processor, other_text, split_words="mean")
    embedding = other.get_input_embeddings()
    pieces = vocabulary.piece_ids(its_processor.tokenizer)
    words = torch.stack([embedding(torch.tensor(ids)).mean(0) for ids in pieces])  # (V, d)
    with torch.no_grad():
        torch.testing.assert_close(other.model.get_word_embeddings(), words)
        found = torch.stack(other.get_image_features(pixel_values).pooler_output)
        torch.testing.assert_close(found, model.get_image_coefficients(pixel_values) @ words)


def test_the_pieces_spell_the_words(vocabulary):
    tokenizer = make_tokenizer(OTHER_SENTENCES)
    pieces = vocabulary.piece_ids(tokenizer)
    assert [tokenizer.decode(ids) for ids in pieces] == list(vocabulary.surfaces)
    assert SharedVocabulary.from_token_ids(tokenizer, pieces) == vocabulary


def test_a_word_that_cannot_be_spelled_is_named():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = None
    words = SharedVocabulary([" dog", "<|endoftext|>"])
    with pytest.raises(ValueError, match=r"1 of the 2 surfaces cannot be spelled .*endoftext"):
        words.piece_ids(tokenizer)


def test_the_softmax_is_right_where_words_are_left_out(compose, processor, other_text):
    other, _ = transfer(compose(coefficient_activation="softmax"), processor, other_text)
    head, words = other.model.vocabulary_head, other.model.get_word_embeddings()
    with torch.no_grad():
        head.token_ids[:4, 1] = 5  # whole words no longer
        hidden_states = torch.randn(7, 40, requires_grad=True)
    results = [
        torch.autograd.grad(mix.sin().sum(), [hidden_states, head.weight, head.bias])
        for mix in (head(hidden_states, words), head.get_coefficients(hidden_states) @ words)
    ]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
        assert expected.isfinite().all()


def test_it_is_a_checkpoint_that_loads_saves_its_adapter_and_trains(
    compose, processor, other_text, vocabulary, pixel_values, vision, tmp_path
):
    other, its_processor = transfer(compose(coefficient_activation="gated_softmax"), processor, other_text)
    for part in (other, its_processor):
        part.save_pretrained(tmp_path / "other")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "other")
    for found, expected in zip(
        see(loaded, its_processor, pixel_values), see(other, its_processor, pixel_values), strict=True
    ):
        assert found.equal(expected)
    LangBridgeAdapter.from_model(loaded, its_processor.tokenizer).save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "vocabulary.json").read_text()) == list(vocabulary.surfaces)
    again = LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(vision, other_text, split_words="leave_out")[
        0
    ]
    assert torch.cat(again.get_image_features(pixel_values).pooler_output).equal(
        see(other, its_processor, pixel_values)[0]
    )
    loaded.train()
    torch.cat(loaded.get_image_features(pixel_values).pooler_output).sum().backward()
    silent = lacking(vocabulary, its_processor.tokenizer)
    assert not loaded.model.vocabulary_head.weight.grad[silent].any()
    assert loaded.model.vocabulary_head.weight.grad[~silent].abs().sum() > 0


def test_words_per_image_are_picked_among_those_that_are_whole(
    compose, processor, other_text, vocabulary, pixel_values
):
    model = compose(coefficient_activation="gated_softmax")
    other, its_processor = transfer(model, processor, other_text, words_per_image=39)
    tokens = torch.stack(other.get_image_features(pixel_values).pooler_output)  # (2, 39, d)
    whole = other.model.get_word_embeddings()[~lacking(vocabulary, its_processor.tokenizer)]
    distance = torch.cdist(tokens[0], whole).min(0).values  # of each whole word, all 39 of which are there
    assert distance.max() < 1e-4


def test_a_tokenizer_with_too_few_of_the_words_is_refused(compose, processor, vocabulary, tmp_path):
    folder = tmp_path / "few"
    tokenizer = make_tokenizer(["0123456789"])
    AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=512, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    letters = [surface for surface in vocabulary.surfaces if len(surface) == 1]
    model = compose(SharedVocabulary([" dog", " grass", " water", " ball", " street", letters[0]]))
    with pytest.raises(ValueError, match=r"has 1 of the adapter's 6 words as single tokens, too few"):
        transfer(model, processor, str(folder))
    other, _ = transfer(model, processor, str(folder), split_words="mean")
    assert other.config.pieces_per_word > 1


def test_an_adapter_without_words_is_refused(vision, text, processor, other_text):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, processor=processor, adapter_type="mlp"
    )
    with pytest.raises(ValueError, match="needs an adapter made of words"):
        transfer(model, processor, other_text)


@pytest.fixture(scope="session")
def real_sized(data, tmp_path_factory):
    return save_real_sized(data, tmp_path_factory.mktemp("real"))


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(TOKENIZERS, 2)))
def test_between_real_tokenizers_it_comes_back_the_same(vision, real_sized, pixel_values, one, other):
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, str(real_sized / one))
    vocabulary = SharedVocabulary.qwen2_llama3().restricted_to(processor.tokenizer)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision,
        str(real_sized / one),
        vocabulary,
        processor,
        projector_hidden_size=16,
        coefficient_activation="gated_softmax",
    )
    randomise(model)
    before = see(model, processor, pixel_values)
    moved, its_processor = transfer(model, processor, str(real_sized / other))
    token_ids = moved.model.vocabulary_head.token_ids.view(len(vocabulary), -1)  # (V, pieces)
    words = its_processor.tokenizer.batch_decode(
        [ids[ids >= 0] for ids in token_ids], clean_up_tokenization_spaces=False
    )
    # SentencePiece drops the space before a text.
    assert [word.strip() for word in words] == [surface.strip() for surface in vocabulary.surfaces]
    assert see(moved, its_processor, pixel_values)[0].isfinite().all()
    back, back_processor = transfer(moved, its_processor, str(real_sized / one))
    for found, expected in zip(see(back, back_processor, pixel_values), before, strict=True):
        assert found.equal(expected)

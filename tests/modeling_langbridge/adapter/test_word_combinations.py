# SPDX-License-Identifier: Apache-2.0
"""Words that a tokenizer splits become combinations of words that it has, which mean the same in both models."""

import functools
import itertools

import pytest
import torch
from real_tokenizers import TOKENIZERS, save_real_sized
from tiny_parts import SENTENCES, make_tokenizer, save_other_language_model, see
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    SharedVocabulary,
    transfer,
)
from modeling_langbridge.adapter import word_combinations
from modeling_langbridge.adapter.placeholder import placeholder_language_model
from modeling_langbridge.adapter.word_combinations import combine_split_words, match
from modeling_langbridge.vocabulary import shared_vocabulary
from modeling_langbridge.vocabulary.surfaces import index_surfaces


@pytest.fixture(scope="module")
def vocabulary() -> SharedVocabulary:
    """Words of the first tokenizer, 21 of which the other one lacks."""
    return SharedVocabulary.build([make_tokenizer()], SENTENCES, 60)


@pytest.fixture
def model(vision, text, processor, vocabulary) -> LangBridgeForConditionalGeneration:
    torch.manual_seed(0)
    return LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=40, coefficient_activation="gated_softmax"
    )


@pytest.fixture(scope="module")
def related_text(text, tmp_path_factory) -> str:
    """A language model in whose space the words that both have lie as they do in the first one's, turned around."""
    folder = save_other_language_model(tmp_path_factory.mktemp("related"))
    other, its_tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    weight = AutoModelForCausalLM.from_pretrained(text).get_input_embeddings().weight  # (tokens, 32)
    here, there = index_surfaces(AutoTokenizer.from_pretrained(text)), index_surfaces(its_tokenizer)
    with torch.no_grad():
        for surface in here.keys() & there.keys():
            other.get_input_embeddings().weight[there[surface]] = turn(weight[here[surface]])
    other.save_pretrained(folder)
    return folder


def turn(rows: torch.Tensor) -> torch.Tensor:
    """Vectors `(..., 32)` as vectors `(..., 48)` of the same lengths and angles, around another mean."""
    basis = torch.linalg.qr(torch.randn(48, 32, generator=torch.Generator().manual_seed(3)))[0]
    return rows @ basis.T + 0.05


def lacking(vocabulary: SharedVocabulary, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    return torch.tensor([len(pieces) > 1 for pieces in vocabulary.piece_ids(tokenizer)])


def pixel_values() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_the_atoms_that_targets_are_made_of_are_found():
    atoms = torch.randn(200, 96, generator=torch.Generator().manual_seed(0)) + 5
    recipes = torch.tensor([[3, 40, 150], [7, 8, 199]])
    shares = torch.tensor([[0.5, 0.3, 0.2], [1.4, -0.9, 0.5]])
    chosen, weights = match((shares[..., None] * atoms[recipes]).sum(1), atoms)
    found, expected = (
        torch.zeros(2, 200).scatter_add(1, *each) for each in ((chosen, weights), (recipes, shares))
    )  # (2, atoms)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_where_all_words_lie_makes_no_difference():
    generator = torch.Generator().manual_seed(0)
    atoms, targets = torch.randn(60, 24, generator=generator), torch.randn(5, 24, generator=generator)
    chosen, weights = match(targets, atoms)
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    moved, moved_weights = match(targets + 3, atoms + 3)
    assert moved.equal(chosen)
    torch.testing.assert_close(moved_weights, weights, atol=1e-4, rtol=1e-3)


def test_words_that_were_never_trained_and_are_alike_make_no_combination_infinite():
    atoms = torch.zeros(20, 8)
    atoms[:3] = torch.eye(8)[:3]
    _, weights = match(torch.stack([torch.zeros(8), torch.ones(8)]), atoms)
    assert weights.isfinite().all()


def test_a_split_word_lies_where_it_would_if_the_new_model_had_it(model, processor, vocabulary, related_text):
    expected = turn(model.model.get_word_embeddings())  # (V, 48)
    split = lacking(vocabulary, AutoTokenizer.from_pretrained(related_text))
    cosines = {}
    for split_words in ("mean", "combine"):
        other, _ = transfer(model, processor, related_text, split_words=split_words)
        words = other.model.get_word_embeddings()
        torch.testing.assert_close(words[~split], expected[~split])
        away = (each[split] - turn(torch.zeros(32)) for each in (words, expected))  # from the mean
        cosines[split_words] = torch.cosine_similarity(*away).mean()
    assert split.sum() == 21 and cosines["combine"] > cosines["mean"] + 0.15


def test_it_is_a_checkpoint_that_loads_folds_and_comes_back(model, processor, related_text, text, tmp_path):
    before = see(model, processor, pixel_values())
    other, its_processor = transfer(model, processor, related_text, split_words="combine")
    for part in (other, its_processor):
        part.save_pretrained(tmp_path / "other")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "other")
    visual_tokens, logits = see(loaded, its_processor, pixel_values())
    for found, expected in zip((visual_tokens, logits), see(other, its_processor, pixel_values()), strict=True):
        assert found.equal(expected)
    with torch.no_grad():
        mixed = loaded.get_image_coefficients(pixel_values()) @ loaded.model.get_word_embeddings()
    torch.testing.assert_close(visual_tokens, mixed.flatten(0, 1))
    back, back_processor = transfer(loaded, its_processor, text, split_words="combine")
    for found, expected in zip(see(back, back_processor, pixel_values()), before, strict=True):
        assert found.equal(expected)


def test_an_adapter_alone_is_combined_after_any_language_model(
    model, processor, vocabulary, vision, text, related_text
):
    adapter = LangBridgeAdapter.from_model(model, processor.tokenizer)
    assert not [name for name in adapter.weights if "ids" in name]
    with pytest.raises(ValueError, match="give `reference_model` and `reference_tokenizer`"):
        adapter.join(vision, related_text, split_words="combine")
    reference = AutoModelForCausalLM.from_pretrained(text), AutoTokenizer.from_pretrained(text)
    joined, its_processor = adapter.join(
        vision, related_text, None, None, "combine", reference_model=reference[0], reference_tokenizer=reference[1]
    )
    moved, _ = transfer(model, processor, related_text, split_words="combine")
    assert joined.model.get_word_embeddings().equal(moved.model.get_word_embeddings())
    adapter.load_onto(joined, its_processor.tokenizer)  # the same words
    fewer = SharedVocabulary([*vocabulary.surfaces[1:], vocabulary.surfaces[0]])
    with pytest.raises(ValueError, match="combined for other words than the adapter's"):
        LangBridgeAdapter(adapter.config, fewer, adapter.weights).load_onto(joined, its_processor.tokenizer)


def test_a_language_model_with_all_words_combines_none(model, processor, text):
    same, _ = transfer(model, processor, text, split_words="combine")
    assert same.config.pieces_per_word == 1 and same.model.vocabulary_head.combined_ids is None


def test_a_word_that_the_reference_splits_too_is_the_mean_of_its_pieces(text, related_text):
    reference, tokenizer = AutoModelForCausalLM.from_pretrained(text), AutoTokenizer.from_pretrained(related_text)
    words = SharedVocabulary([" a", " dogs"])
    token_ids, weights = combine_split_words(words, tokenizer, reference, AutoTokenizer.from_pretrained(text))
    pieces = words.piece_ids(tokenizer)
    assert len(pieces[1]) > 1 and " dogs" not in index_surfaces(AutoTokenizer.from_pretrained(text))
    for ids, its_weights, expected in zip(token_ids.tolist(), weights, pieces, strict=True):
        assert ids[: len(expected)] == expected
        torch.testing.assert_close(its_weights[: len(expected)], torch.full((len(expected),), 1 / len(expected)))
        assert not its_weights[len(expected) :].any()


def test_composing_a_new_model_refuses_it(vision, text, processor, vocabulary):
    with pytest.raises(ValueError, match="needs a trained adapter: use `LangBridgeAdapter.join` or `transfer`"):
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, vocabulary, processor, split_words="combine"
        )


def test_tokenizers_that_share_too_few_words_are_refused(text):
    words = SharedVocabulary([" a", " dog"])
    with pytest.raises(ValueError, match="share 2 words as single tokens, too few to make the others of"):
        combine_split_words(words, AutoTokenizer.from_pretrained(text), *placeholder_language_model(words))


@pytest.fixture(scope="module")
def real_sized(data, tmp_path_factory):
    """The models, and each tokenizer's words read once: it takes longer than all else."""
    index = functools.cache(lambda name: index_surfaces(AutoTokenizer.from_pretrained(name)))
    with pytest.MonkeyPatch.context() as patch:
        for module in (word_combinations, shared_vocabulary):
            patch.setattr(module, "index_surfaces", lambda tokenizer: index(tokenizer.name_or_path))
        yield save_real_sized(data, tmp_path_factory.mktemp("real"))


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(TOKENIZERS, 2)))
def test_no_shipped_word_is_lost_between_real_tokenizers(real_sized, one, other):
    vocabulary = SharedVocabulary.qwen2_llama3()
    reference = AutoModelForCausalLM.from_pretrained(real_sized / one), AutoTokenizer.from_pretrained(real_sized / one)
    tokenizer = AutoTokenizer.from_pretrained(real_sized / other)
    token_ids, weights = combine_split_words(vocabulary, tokenizer, *reference)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(vocabulary)))
    assert 0 <= token_ids.min() and token_ids.max() < len(tokenizer)
    split = lacking(vocabulary, tokenizer)
    assert weights[~split].count_nonzero(1).eq(1).all()
    known = word_combinations.index_surfaces(reference[1])
    combined = split & torch.tensor([surface in known for surface in vocabulary.surfaces])
    assert (weights[combined].count_nonzero(1) < 8).sum() <= combined.sum() / 100

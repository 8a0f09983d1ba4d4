# SPDX-License-Identifier: Apache-2.0
"""What is predicted of a change of the language model: each number against a plain computation, and what follows."""

import math

import pytest
import torch
from tiny_parts import SENTENCES, save_language_model

from modeling_langbridge import LangBridgeForConditionalGeneration, SharedVocabulary, transfer
from modeling_langbridge.adapter.transfer_diagnosis import TransferDiagnosis, diagnose_transfer
from modeling_langbridge.adapter.word_space import null_space_share, word_map_r2


@pytest.fixture(scope="module")
def other_text(tmp_path_factory) -> str:
    return save_language_model("llama2", tmp_path_factory.mktemp("llama2"))


@pytest.fixture
def compose(vision, text, processor):
    def compose(**fields) -> LangBridgeForConditionalGeneration:
        vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, vocabulary, processor, projector_hidden_size=40, **fields
        )
        torch.manual_seed(0)
        for parameter in (*model.model.multi_modal_projector.parameters(), *model.model.vocabulary_head.parameters()):
            torch.nn.init.normal_(parameter)
        return model

    return compose


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("activation", ["linear", "gated_softmax"])
def test_what_is_measured_on_photos_is_as_computed_by_hand(compose, processor, other_text, pixel_values, activation):
    old = compose(coefficient_activation=activation)
    new, _ = transfer(old, processor, other_text)
    found = diagnose_transfer(old, new, old.model.get_patch_features(pixel_values))
    with torch.no_grad():
        coefficients = old.get_image_coefficients(pixel_values).flatten(0, 1)  # (patches, V)
        tokens = torch.cat(new.get_image_features(pixel_values).pooler_output)  # (patches, d)
        words = new.model.get_word_embeddings()
    magnitudes = coefficients.abs().sort(descending=True).values
    assert found.token_length == pytest.approx((tokens.norm(dim=-1).mean() / words.norm(dim=-1).mean()).item())
    assert found.few_words == pytest.approx((magnitudes[:, :8].sum() / magnitudes.sum()).item())
    words_of_each = coefficients.unflatten(0, (3, -1)).mean(1).abs().double()  # (photos, V)
    words_of_each = words_of_each / words_of_each.sum(-1, keepdim=True)
    bits = torch.special.xlogy(words_of_each, words_of_each / words_of_each.mean(0)) / math.log(2)
    assert found.told_apart == pytest.approx(bits.nansum(-1).mean().item(), rel=1e-3)
    assert found.map_r2 == pytest.approx(word_map_r2(old.model.get_word_embeddings(), words))
    if activation == "linear":
        expected = null_space_share(coefficients, old.model.get_word_embeddings())
        assert found.null_share == pytest.approx(expected, rel=1e-3)
    else:
        assert found.null_share is None


def test_words_are_measured_as_the_new_model_reads_them(compose, processor, other_text, pixel_values):
    old = compose(coefficient_activation="gated_softmax")
    new, _ = transfer(old, processor, other_text, words_per_image=4)
    found = diagnose_transfer(old, new, old.model.get_patch_features(pixel_values))
    with torch.no_grad():
        tokens = torch.cat(new.get_image_features(pixel_values).pooler_output)  # (photos x 4, d)
        lengths = new.model.get_word_embeddings().norm(dim=-1)  # (V,)
    assert len(tokens) == 12 and found.few_words == 1
    assert found.token_length == pytest.approx((tokens.norm(dim=-1).mean() / lengths.mean()).item())


def test_without_photos_and_without_the_old_model_it_says_what_it_does_not_know(compose, processor, other_text):
    old = compose()
    new, _ = transfer(old, processor, other_text)
    without_photos = diagnose_transfer(old, new)
    assert without_photos.null_share > 0.1 and without_photos.token_length is None
    text = str(diagnose_transfer(None, new))
    assert text.count("not known") == 6 and "60 of 60" in text


def test_an_adapter_that_was_never_trained_is_not_usable(vision, text, processor, other_text, pixel_values):
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
    fresh = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=40, coefficient_activation="gated_softmax"
    )
    new, _ = transfer(fresh, processor, other_text, words_per_image=4)
    features = fresh.model.get_patch_features(pixel_values)
    assert diagnose_transfer(fresh, new, features).conclude().startswith("Not usable")
    assert diagnose_transfer(fresh, new, features[:1]).told_apart is None  # from which other photo?


KNOWN = {
    "words_per_image": None,
    "num_words": 60,
    "num_left_out": 0,
    "num_in_pieces": 0,
    "old_length": 1.0,
    "new_length": 1.0,
    "null_share": None,
    "told_apart": 1.0,
}


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"activation": "linear", "map_r2": -0.5, "token_length": 60.0, "few_words": 0.02}, "Needs finetuning: raw"),
        ({"activation": "linear", "map_r2": 0.9, "token_length": 60.0, "few_words": 0.02}, "Needs finetuning: raw"),
        ({"activation": "linear", "map_r2": 0.9, "token_length": 1.0, "few_words": 0.02}, "May be usable at once"),
        ({"activation": "softmax", "map_r2": -0.5, "token_length": 0.3, "few_words": 0.1}, "Needs finetuning, or gro"),
        (
            {"activation": "gated_softmax", "map_r2": -0.5, "token_length": 0.6, "few_words": 0.9},
            "Usable at once: a p",
        ),
        ({"activation": "softmax", "map_r2": None, "token_length": None, "few_words": None}, "Usable at once if"),
        (
            {"activation": "softmax", "map_r2": 0.0, "token_length": 0.3, "few_words": 0.1, "words_per_image": 8},
            "Usable at once: an image",
        ),
        (
            {"activation": "softmax", "words_per_image": 8, "map_r2": 0.0, "token_length": None, "few_words": None}
            | {"told_apart": None},
            "Usable at once if the adapter was trained: give two photos",
        ),
        (
            {"activation": "softmax", "words_per_image": 8, "map_r2": 0.0, "token_length": 0.3, "few_words": 0.1}
            | {"told_apart": 0.001},
            "Not usable: all photos get nearly the same words",
        ),
        (
            {"activation": "linear", "map_r2": 0.9, "token_length": 1.0, "few_words": 0.02, "told_apart": 0.0},
            "Not usable: all photos get nearly the same words",
        ),
    ],
)
def test_one_sentence_says_whether_the_swap_is_usable_at_once(fields, verdict):
    assert TransferDiagnosis(**{**KNOWN, **fields}).conclude().startswith(verdict)

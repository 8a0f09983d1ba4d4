# SPDX-License-Identifier: Apache-2.0
"""Substitution: the words that an explanation shows, and controls, in place of a photo's visual tokens."""

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from tiny_parts import SENTENCES, make_image
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter, SharedVocabulary
from modeling_langbridge.reading.explaining import explain
from modeling_langbridge.reading.patch_words import name_words
from modeling_langbridge.reading.questions import prepare_question
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.evaluation.captioning import ask
from trainer.evaluation.explanation_report import cider_table, substitution_table
from trainer.evaluation.faithfulness import (
    FREQUENT,
    OTHER,
    OWN,
    PERMUTED,
    RANDOM,
    SHOWN,
    TRUE,
    Substitution,
    count_uses,
    predict,
    replace,
    see,
    show,
    substitute,
)
from trainer.grounding import GroundingConfig, GroundingTrainer, compose_for_grounding


CAPTIONS = {
    "red": "a red ball on the grass",
    "blue": "a blue boat near the grass",
    "green": "a green street with a dog",
    "black": "a black dog on the grass",
    "brown": "a brown cat in the street",
    "white": "a white boat and a dog",
}
QUESTION = "what is in the picture?"


@pytest.fixture(scope="module")
def photos() -> list[CaptionedPhoto]:
    return [CaptionedPhoto(colour, make_image(colour), [caption]) for colour, caption in CAPTIONS.items()]


def attend(model):
    """Makes the language model mind what it is told."""
    for parameter in model.model.language_model.layers.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture(scope="module")
def grounded(vision, text, composed, photos, tmp_path_factory):
    """An adapter that has learnt the photos' words, with a language model."""
    vocabulary = SharedVocabulary.build([composed[1].tokenizer], SENTENCES, 60)
    torch.manual_seed(0)
    model, processor = compose_for_grounding(
        vision, vocabulary, projector_hidden_size=40, coefficient_activation="gated_softmax"
    )
    dataset = Dataset.from_dict(
        {"image": [photo.image for photo in photos], "caption": [photo.captions[0] for photo in photos]},
        features=Features({"image": Image(), "caption": Value("string")}),
    )
    config = GroundingConfig(
        str(tmp_path_factory.mktemp("grounding")),
        max_steps=60,
        learning_rate=0.02,
        per_device_train_batch_size=6,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    GroundingTrainer(model, config, processor, vocabulary, dataset).train()
    torch.manual_seed(1)
    model, processor = LangBridgeAdapter.from_model(model.eval(), processor.tokenizer).join(vision, text)
    attend(model)
    return model, processor


def total_of(found: Substitution, what: str, number: int) -> float:
    return sum(found.totals[what, number])


@pytest.mark.parametrize("number", [2, 3])
def test_the_words_that_are_shown_do_better_than_the_controls_in_their_order(grounded, photos, number):
    found = substitute(*grounded, photos, QUESTION, numbers=(number,))
    true, permuted, frequent, random = (total_of(found, what, number) for what in SHOWN)
    assert true < 0.9 * permuted < 0.9**2 * frequent < 0.9**3 * random


@pytest.mark.parametrize("activation", ["linear", "softmax", "gated_softmax"])
def test_all_words_of_a_patch_are_the_visual_token(vision, text, photos, activation):
    model, processor = compose(vision, text, coefficient_activation=activation)
    attend(model)
    found = substitute(model, processor, photos[:2], QUESTION, numbers=(1,))
    number = model.config.bridge_vocab_size
    assert found.numbers == [1, number]
    assert total_of(found, TRUE, number) == pytest.approx(0, abs=1e-4) == total_of(found, OWN, number)
    assert total_of(found, TRUE, 1) > 0.01 and total_of(found, OTHER, number) > 0.001


def test_the_words_of_an_image_are_all_that_the_language_model_reads(vision, text, photos):
    model, processor = compose(vision, text, coefficient_activation="gated_softmax", words_per_image=4)
    attend(model)
    found = substitute(model, processor, photos[:3], QUESTION, numbers=(2, 8))
    assert found.numbers == [2, 4]
    assert found.totals[TRUE, 4] == found.totals[OWN, 4] == [0, 0, 0]
    assert min(total_of(found, what, 4) for what in (PERMUTED, FREQUENT, RANDOM, OTHER)) > 0.001
    names = name_words(processor.tokenizer, model.model.get_word_ids())
    words, _ = show(see(model, processor, photos[0])[1], 4, is_image=True)
    explained = explain(model, processor, photos[0].image).photo
    assert [names[word] for word in words[0]] == [word for word, _ in explained]


def test_what_is_shown_of_a_patch_is_what_the_page_lists(grounded, photos):
    model, processor = grounded
    words, strengths = show(see(model, processor, photos[0])[1], 3, is_image=False)
    names = name_words(processor.tokenizer, model.model.get_word_ids())
    listed = [patch for row in explain(model, processor, photos[0].image, top=3).patches for patch in row]
    assert [[names[word] for word in patch] for patch in words] == [[word for word, _ in patch] for patch in listed]
    assert strengths.tolist() == [[strength for _, strength in patch] for patch in listed]


def test_raw_coefficients_are_ranked_by_magnitude_and_keep_their_sign():
    words, strengths = show(torch.tensor([[0.1, -3.0, 2.0], [0.5, 0.0, -0.2]]), 2, is_image=False)
    assert words.tolist() == [[1, 2], [0, 2]]
    assert strengths.flatten().tolist() == pytest.approx([-3, 2, 0.5, -0.2])


def test_a_linear_remainder_is_not_shown(vision, text, photos):
    model, processor = compose(vision, text, coefficient_activation="gated_softmax", linear_remainder=True)
    attend(model)
    torch.nn.init.normal_(model.model.vocabulary_head.remainder_weight)
    found = substitute(model, processor, photos[:2], QUESTION, numbers=())
    assert total_of(found, TRUE, found.numbers[-1]) > 0.01


def test_controls_keep_the_strengths_and_take_no_word_that_the_language_model_lacks():
    words, strengths = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0.9, 0.1], [0.6, 0.2]])
    usage = torch.tensor([0.0, 5, 1, 9, -1, -1, 2])
    for seed in range(20):
        found = replace(words, strengths, usage, torch.Generator().manual_seed(seed))
        assert torch.equal(found[PERMUTED][0], words)
        assert found[PERMUTED][1].flatten().sort().values.tolist() == strengths.flatten().sort().values.tolist()
        assert found[FREQUENT][0].tolist() == [[3, 1], [3, 1]]
        assert not {4, 5} & set(found[RANDOM][0].flatten().tolist())
        assert all(row[0] != row[1] for row in found[RANDOM][0])
        assert all(torch.equal(found[what][1], strengths) for what in (TRUE, FREQUENT, RANDOM))


def test_words_are_counted_in_captions_and_missing_ones_marked(grounded, photos):
    model, processor = grounded
    usage = count_uses(model, processor, photos)
    names = name_words(processor.tokenizer, model.model.get_word_ids())
    assert usage[names.index("grass")] == 3 and usage[names.index("red")] == 1 and usage.min() == 0


@torch.no_grad()
def test_predictions_are_the_models_own_after_the_photo_and_the_question(grounded, photos):
    model, processor = grounded
    caption = processor.tokenizer("a red ball", return_tensors="pt")["input_ids"]
    inputs = prepare_question(processor, [photos[0].image], QUESTION)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], caption], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    expected = model(**inputs).logits[:, -caption.shape[1] - 1 : -1].log_softmax(-1)
    tokens = see(model, processor, photos[0])[0]
    torch.testing.assert_close(predict(model, processor, tokens[None], QUESTION, caption), expected)


def test_answers_are_what_the_model_says_with_what_it_is_handed(grounded, photos):
    found = substitute(*grounded, photos[:3], QUESTION, numbers=(1,), answer=True)
    number = found.numbers[-1]
    own = ask(*grounded, [photo.image for photo in photos[:3]], QUESTION)
    assert found.answers[OWN, number] == own == found.answers[TRUE, number]
    assert found.answers[OTHER, number] == [own[2], own[0], own[1]]
    assert found.answers[RANDOM, 1] != own


def test_the_table_has_a_row_for_each_control_and_how_much_worse_it_is_than_the_row_above():
    found = Substitution(num_tokens=[10, 10])
    for number, step in ((2, 1.0), (60, 0.0)):
        for place, what in enumerate(SHOWN):
            found.totals[what, number] = [place * step, place * step]
    found.totals[OTHER, 60] = [5.0, 5.0]
    lines = substitution_table(found).splitlines()
    assert lines[0] == "| handed to the language model | 2 | all 60 |"
    assert lines[2] == "| the words that are shown | 0.000 [0.000, 0.000] | 0.000 [0.000, 0.000] |"
    assert lines[5] == "| random words | 0.300 [+0.100, +0.100] | 0.000 [+0.000, +0.000] |"
    assert lines[6] == "| another photo's visual tokens | | 0.500 [0.500, 0.500] |"


def test_cider_changes_by_what_the_model_then_says(photos):
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap, the extra `eval`, is not installed")
    from trainer.evaluation.caption_metrics import check_java

    try:
        check_java()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    own, wrong = [photo.captions[0] for photo in photos], ["the moon"] * len(photos)
    found = Substitution(totals={(TRUE, 60): []})
    found.answers = {(OWN, 60): own, **{(what, 60): wrong for what in SHOWN}, (TRUE, 60): own}
    lines = cider_table(found, photos).splitlines()
    assert lines[2] == "| the words that are shown | +0.000 |"
    assert lines[3].startswith("| the same words, strengths permuted | -")
    assert lines[0].startswith("| change of CIDEr from 10.000 |")
    assert float(lines[3].split("|")[2]) == pytest.approx(-10, abs=0.1)


def test_one_photo_and_an_adapter_without_words_are_refused(vision, text, grounded, photos):
    with pytest.raises(ValueError, match="There is 1 photo: substitution needs at least two"):
        substitute(*grounded, photos[:1], QUESTION)
    with pytest.raises(ValueError, match="`substitute` needs an adapter made of words"):
        substitute(*compose(vision, text, adapter_type="mlp"), photos, QUESTION)

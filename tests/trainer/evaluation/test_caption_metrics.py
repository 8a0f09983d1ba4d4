# SPDX-License-Identifier: Apache-2.0
"""Caption scores: pycocoevalcap's, per image, safe against empty captions and line breaks."""

import shutil

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from trainer.evaluation.caption_metrics import caption_scores, measure_captions, tokenize_plainly


REFERENCES = {
    "a.jpg": ["A dog runs on the grass.", "The brown dog is running over a lawn ."],
    "b.jpg": ["Two children play in the snow.", "Kids build a snowman in the snow"],
    "c.jpg": ["A man rides a bicycle down the street.", "A cyclist on the road"],
}
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the PTB tokenizer needs Java")


@needs_java
def test_a_human_caption_scores_highest_and_another_images_caption_scores_nothing():
    exact = caption_scores({name: captions[0] for name, captions in REFERENCES.items()}, REFERENCES)
    wrong = caption_scores(
        {"a.jpg": "Kids build snow", "b.jpg": "cyclist down street", "c.jpg": "brown dog lawn"}, REFERENCES
    )
    assert exact["BLEU-4"] == pytest.approx(1.0, abs=1e-6)
    assert exact["CIDEr"] > 3
    assert wrong["CIDEr"] < 0.01 and wrong["BLEU-4"] < 0.01


@needs_java
def test_bleu_4_wants_four_words_in_a_row():
    shuffled = {"a.jpg": "grass the on dog a runs", "b.jpg": "snow the play in two children", "c.jpg": "road on a the"}
    assert caption_scores(shuffled, REFERENCES)["BLEU-4"] < 0.01


@needs_java
def test_case_punctuation_and_line_breaks_do_not_count():
    plain = caption_scores({name: captions[0] for name, captions in REFERENCES.items()}, REFERENCES)
    odd = {"a.jpg": "a DOG runs,\non the grass", "b.jpg": "two children play\r in\u2028the snow", "c.jpg": "a man rides a bicycle down the street!"}  # fmt: skip  # noqa: E501
    assert caption_scores(odd, REFERENCES) == plain


@needs_java
def test_an_empty_caption_costs_only_its_own_image():
    good = {name: captions[0] for name, captions in REFERENCES.items()}
    full = caption_scores(good, REFERENCES)["CIDEr"]
    for name in REFERENCES:
        partial = caption_scores({**good, name: ""}, REFERENCES)["CIDEr"]
        assert full / 2 < partial < full * 0.75
    assert caption_scores(dict.fromkeys(REFERENCES, ""), REFERENCES)["CIDEr"] == 0


@needs_java
def test_images_that_do_not_match_are_named():
    with pytest.raises(ValueError, match="b.jpg"):
        caption_scores({"a.jpg": "a dog"}, {"a.jpg": ["a dog"], "b.jpg": ["a cat"]})
    with pytest.raises(ValueError, match="a.jpg has no human caption"):
        caption_scores({"a.jpg": "a dog"}, {"a.jpg": []})
    with pytest.raises(ValueError, match="no captions"):
        caption_scores({}, {})


def test_missing_java_is_said_plainly(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Java"):
        caption_scores({"a.jpg": "a dog"}, {"a.jpg": ["a dog"]})


CAPTIONS = {"a.jpg": "a dog runs over a lawn", "b.jpg": "children in the snow", "c.jpg": ""}


@needs_java
def test_what_is_added_up_over_images_makes_pycocoevalcaps_own_scores():
    measures = measure_captions(CAPTIONS, REFERENCES)
    assert list(measures) == ["CIDEr", "BLEU-4", "ROUGE-L"]
    truth = tokenize_plainly(REFERENCES)
    ours = tokenize_plainly({name: [caption] for name, caption in CAPTIONS.items()})
    for name, scorer in (("CIDEr", Cider()), ("ROUGE-L", Rouge())):
        assert measures[name].value() == pytest.approx(scorer.compute_score(truth, ours)[0]), name
    long = {name: [caption * 3] for name, (caption, *_) in truth.items()}
    for candidates in (ours, long):
        bleu = measure_captions({name: caption for name, (caption,) in candidates.items()}, REFERENCES)["BLEU-4"]
        expected = Bleu(4).compute_score(truth, candidates, verbose=0)[0][3]
        assert bleu.value() == pytest.approx(expected, rel=1e-6)


@needs_java
def test_intervals_of_captions_are_over_images():
    for measure in measure_captions(CAPTIONS, REFERENCES).values():
        found = measure.estimate()
        assert len(measure.statistics) == 3 and found.low <= found.value <= found.high


def test_without_java_the_names_say_which_tokenizer_was_used(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    measures = measure_captions({**CAPTIONS, "c.jpg": "A man, rides a BICYCLE down the street!"}, REFERENCES)
    assert list(measures) == [f"{name} (plain tokenizer)" for name in ("CIDEr", "BLEU-4", "ROUGE-L")]
    assert measures["ROUGE-L (plain tokenizer)"].statistics[2, 0] == pytest.approx(1.0)


def test_the_plain_tokenizer_leaves_words_alone():
    captions = {"a": ["A dog's ball, red-and-white.", ""]}
    assert tokenize_plainly(captions) == {"a": ["a dog 's ball red and white", ""]}

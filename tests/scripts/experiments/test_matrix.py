# SPDX-License-Identifier: Apache-2.0
"""The parts of the matrix: its questions, what foretells a swap, its texts and its tables."""

import dataclasses
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.flickr8k.few_shot import FewShot
from experiments.flickr8k.yes_no_questions import THINGS
from experiments.matrix.forms import FORMS
from experiments.matrix.language_models import SMALL
from experiments.matrix.naming import rate_things
from experiments.matrix.preparing import write_documents
from experiments.matrix.prognosis import word_distance
from experiments.matrix.report import Cell, correlate, describe_cells, describe_forms
from experiments.matrix.world import MatrixSizes
from trainer.data.caption_words import content_words


def test_a_thing_is_rated_by_its_likelihood_at_the_beginning_of_a_caption(composed, text):
    model, processor, _ = composed
    tokenizer = processor.tokenizer
    words = " dog ball"
    tokens = model.get_input_embeddings()(torch.tensor(tokenizer(words, add_special_tokens=False)["input_ids"]))
    few_shot = FewShot(model.eval(), processor)
    rated = rate_things(few_shot, [tokens.detach()])
    assert rated.shape == (1, len(THINGS))
    language_model = AutoModelForCausalLM.from_pretrained(text)
    lengths = [len(tokenizer(f" {thing}", add_special_tokens=False)["input_ids"]) for thing in THINGS]
    assert 1 in lengths and max(lengths) > 1
    for place in (lengths.index(1), lengths.index(max(lengths))):
        pieces = ["", "Words:", words, "\nCaption:", " A", f" {THINGS[place]}"]
        ids = [
            tokenizer(pieces[0])["input_ids"],
            *(tokenizer(p, add_special_tokens=False)["input_ids"] for p in pieces[1:]),
        ]
        answer, whole = ids[-1], sum(ids, [])
        with torch.no_grad():
            logits = language_model(torch.tensor([whole])).logits[0].log_softmax(-1)  # (tokens, vocabulary)
        first = len(whole) - len(answer)
        expected = sum(logits[first + i - 1, token].item() for i, token in enumerate(answer))
        assert rated[0, place].item() == pytest.approx(expected, rel=1e-4)


def test_a_thing_that_the_adapter_sees_is_likelier_and_all_others_are_less_so(composed):
    model, processor, _ = composed
    few_shot = FewShot(model.eval(), processor)
    names = [few_shot.encode(f" {thing}") for thing in THINGS]
    whole = next(place for place, ids in enumerate(names) if len(ids) == 1)
    longer = max(range(len(names)), key=lambda place: len(names[place]))
    tokens = few_shot.embed([" dog ball"])
    plain = rate_things(few_shot, [tokens])
    raised = rate_things(few_shot, [tokens], named=[names[whole]], word_bias=2.0)
    p = plain[0, whole].exp()
    lost = (1 + (math.exp(2) - 1) * p).log()  # by which all become less likely, for the sum to stay 1
    changes = (raised - plain)[0]
    torch.testing.assert_close(changes[whole], 2 - lost)
    torch.testing.assert_close(changes[longer], -lost, rtol=1e-2, atol=1e-5)


def test_words_that_are_as_far_apart_in_both_models_have_no_distance():
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(40, 8, generator=generator)
    turned, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator))
    wider = 3 * torch.nn.functional.pad(words, (0, 4)) @ turned  # another width and scale, the same angles
    weights = torch.rand(40, generator=generator)
    assert word_distance(words, wider, weights) == pytest.approx(0, abs=1e-6)
    assert word_distance(words, torch.randn(40, 12, generator=generator), weights) > 0.01


def test_a_language_model_that_reads_no_words_sees_captions_and_nothing_before_captions():
    captions = [f"a brown dog number {number} runs on green grass" for number in range(200)]
    for reads_words in (True, False):
        documents = write_documents(captions, reads_words=reads_words)
        pairs = [document.removeprefix("Words:").split("\nCaption: ") for document in documents]
        assert [caption for _, caption in pairs] == captions
        others = [prefix for prefix, caption in pairs if prefix not in ("", caption)]
        assert (60 < len(others) < 140) if reads_words else not others
        assert all(set(prefix.split()) <= {word for c in captions for word in content_words(c)} for prefix in others)
        assert 20 < sum(prefix == caption for prefix, caption in pairs) < 80


def test_the_small_language_models_differ_and_one_source_was_never_taught_to_read_words():
    sizes = MatrixSizes()
    small = [SMALL[name] for name in sizes.language_models]
    assert len({one.config_class for one in small}) == len({one.width for one in small}) == len(small) >= 4
    assert {one.tokenizer for one in small} == {"byte_level", "metaspace"}
    assert len(sizes.sources) >= 3
    assert [SMALL[name].reads_words for name in sizes.sources].count(False) == 1


def make_cell(source: str, target: str, share: float, **prognosis: float | None) -> Cell:
    shares = {"CIDEr": share, "yes/no": share}
    return Cell("raw", source, target, shares, {name: [share] for name in shares}, 49.0, prognosis)


def test_the_source_itself_is_no_swap_and_the_worst_swap_is_named():
    cells = [
        make_cell(source, target, share)
        for source, target, share in (("a", "a", 2.0), ("a", "b", 0.5), ("b", "a", 0.9))
    ]
    others = [dataclasses.replace(cells[2], form=form) for form in FORMS if form != "raw"]
    row = next(line for line in describe_forms([*cells, *others]).splitlines() if line.startswith("| raw"))
    assert row.split(" | ")[1:] == ["49", "2", "70%", "50%", "70%", "50% |"]


def test_each_cell_stands_under_its_target_and_what_was_not_swapped_is_in_italics():
    cells = [make_cell(source, target, share) for source, target, share in (("a", "b", 0.5), ("a", "a", 2.0))]
    head, _, row = describe_cells(cells).splitlines()
    assert head == "| form | source | b | a |"
    assert row.endswith(" | a | 0.500 (50%); 0.500 (50%) | *2.000 (200%); 2.000 (200%)* |")


def test_a_number_that_ranks_the_swaps_correlates_with_them_and_home_does_not_count():
    ranked = [make_cell("a", f"b{place}", place / 10, map_r2=place**3) for place in range(6)]
    home = make_cell("a", "a", 0.0, map_r2=1e6)
    unknown = make_cell("a", "c", 0.0, map_r2=None)
    assert correlate([*ranked, home, unknown], "map_r2")[:2] == (6, pytest.approx(1))
    assert correlate(ranked[:3], "map_r2") is None

# SPDX-License-Identifier: Apache-2.0
"""Batches of bins: samples side by side, each with positions, targets and images of its own."""

from itertools import accumulate

import pytest
import torch
from tiny_parts import SENTENCES, make_image
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder
from trainer.data.packing_collator import PackingCollator


def sample(name: str, *colours: str, answer: str = "a brown dog") -> dict:
    question = "<image>" * len(colours) + "what is in the picture?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    images = {"image": [make_image(colour) for colour in colours]} if colours else {}
    return {"id": name, "conversations": turns, **images}


TEXT = sample("text", answer=SENTENCES[0])
ONE = sample("one", "red")
TWO = sample("two", "blue", "green", answer=SENTENCES[1])
BINS = [[TEXT, TWO], [ONE]]


@pytest.fixture
def encoder(processor) -> ConversationEncoder:
    return ConversationEncoder(processor)


@pytest.fixture
def plain(processor) -> ConversationEncoder:
    """Without questions, the first token of a text without images is an answer's."""
    return ConversationEncoder(processor, plain_captions=True)


def test_positions_begin_again_at_every_sample_and_padding_is_apart(encoder, processor):
    batch = PackingCollator(encoder)(BINS)
    text, two, one = (encoder.encode(row)["input_ids"] for row in (TEXT, TWO, ONE))
    padding = len(text) + len(two) - len(one)
    assert batch["input_ids"].tolist() == [text + two, one + [processor.tokenizer.pad_token_id] * padding]
    assert batch["position_ids"].tolist() == [
        [*range(len(text)), *range(len(two))],
        [*range(len(one)), *[0] * padding],
    ]
    assert (batch["labels"][1, len(one) :] == -100).all()
    assert "attention_mask" not in batch
    assert batch["num_tokens"] == len(text) + len(two) + len(one)


def test_the_first_token_of_a_sample_is_no_target(plain):
    text = plain.encode(TEXT)
    assert text["labels"][0] != -100
    labels = PackingCollator(plain)([[TWO, TEXT]])["labels"][0]
    start = len(plain.encode(TWO)["input_ids"])
    assert labels[start] == -100
    assert labels[start + 1 :].tolist() == text["labels"][1:]


def test_images_names_and_columns_are_those_of_the_samples_in_their_order(encoder):
    columns = {"count": lambda samples: torch.tensor([len(sample["images"]) for sample in samples])}
    expected = ConversationCollator(encoder, columns)([TEXT, TWO, ONE])
    batch = PackingCollator(encoder, columns)(BINS)
    assert batch["sample_ids"] == ["text", "two", "one"]
    assert batch["count"].tolist() == [0, 2, 1]
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])


def test_for_flash_attention_all_bins_are_one_sequence_without_padding(encoder):
    batch = PackingCollator(encoder, flat=True)(BINS)
    lengths = [encoder.length(row) for row in (TEXT, TWO, ONE)]
    assert batch["position_ids"].tolist() == [[position for length in lengths for position in range(length)]]
    assert batch["input_ids"].shape == batch["labels"].shape == (1, sum(lengths))
    (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(batch["position_ids"])
    assert starts.tolist() == [0, *accumulate(lengths)]
    assert longest == max(lengths)


def test_rows_that_are_no_bins_are_padded(encoder):
    rows = [TEXT, TWO, ONE]
    batch, expected = PackingCollator(encoder, flat=True)(rows), ConversationCollator(encoder)(rows)
    assert batch.keys() == expected.keys()
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])


def test_a_bin_that_is_too_long_is_named(encoder):
    with pytest.raises(ValueError, match="the samples text, two have .* tokens together, more than `max_length` 60"):
        PackingCollator(encoder, max_length=60)(BINS)


def test_a_sample_beyond_the_context_is_named_whatever_a_bin_holds(encoder):
    with pytest.raises(ValueError, match="sample two has .* tokens, more than the language model's context of 50"):
        PackingCollator(encoder, max_length=1000, context=50)([[ONE, TWO]])

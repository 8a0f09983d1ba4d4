# SPDX-License-Identifier: Apache-2.0
"""Samples that are too long are named, and dropped and counted or refused; nothing is ever cut."""

import logging
import re

import pytest
from datasets import Dataset, IterableDataset
from tiny_parts import make_image
from tiny_training import make_trainer

from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder
from trainer.data.dataset_rows import as_rows
from trainer.data.sample_lengths import count_tokens, without_too_long


@pytest.fixture
def encoder(processor) -> ConversationEncoder:
    return ConversationEncoder(processor)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def row(name: str, num_words: int, num_images: int = 0) -> dict:
    messages = [
        {"role": "user", "content": "<image>" * num_images + "what?"},
        {"role": "assistant", "content": "dog " * num_words},
    ]
    return {"id": name, "images": [make_image()] * num_images, "messages": messages}


ROWS = [row("short", 2), row("long", 200), row("fits", 20, 1), row("many images", 2, 9), row("last", 3)]


def make(rows: list[dict], streaming: bool) -> Dataset | IterableDataset:
    dataset = Dataset.from_list(rows)
    return as_rows(dataset.to_iterable_dataset() if streaming else dataset)


@pytest.mark.parametrize("streaming", [False, True])
def test_too_long_samples_are_dropped_counted_and_named(encoder, caplog, streaming):
    with caplog.at_level(logging.WARNING, "trainer"):
        kept = list(without_too_long(make(ROWS, streaming), encoder, 140, "drop"))
    assert [kept_row["id"] for kept_row in kept] == ["short", "fits", "last"]
    assert all(name in caplog.text for name in ("sample long", "sample many images"))
    assert ("2 dropped so far" if streaming else "Dropped 2 of 5 samples") in caplog.text
    assert "sample fits" not in caplog.text


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_kept_is_never_cut(encoder, streaming):
    kept = list(without_too_long(make(ROWS, streaming), encoder, 140, "drop"))
    batch = ConversationCollator(encoder)(kept)
    whole = [encoder.encode(ROWS[position]) for position in (0, 2, 4)]
    for position, sample in enumerate(whole):
        length = len(sample["input_ids"])
        assert batch["input_ids"][position, :length].tolist() == sample["input_ids"]
        assert batch["labels"][position, :length].tolist() == sample["labels"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_too_long_sample_is_refused_by_name(encoder, streaming):
    length = encoder.length(ROWS[1])
    message = f"sample long has {length} tokens, more than `max_length` 140"
    message += "" if streaming else ", and 1 more samples are too long"
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        list(without_too_long(make(ROWS, streaming), encoder, 140, "error"))
    assert caught.value.fault == "too long"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("too_long", ["drop", "error"])
def test_a_sample_as_long_as_allowed_stays(encoder, caplog, streaming, too_long):
    most = max(encoder.length(content) for content in ROWS)
    assert len(list(without_too_long(make(ROWS, streaming), encoder, most, too_long))) == 5
    assert "Dropped" not in caplog.text
    with pytest.raises(ValueError, match="too long|max_length"):
        list(without_too_long(make(ROWS, streaming), encoder, most - 1, "error"))


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_one_token_longer_is_dropped_alone(encoder, streaming):
    lengths = sorted(encoder.length(content) for content in ROWS)
    kept = list(without_too_long(make(ROWS, streaming), encoder, lengths[-2], "drop"))
    assert [kept_row["id"] for kept_row in kept] == ["short", "fits", "many images", "last"]


@pytest.mark.parametrize("streaming", [False, True])
def test_every_token_of_an_image_counts(encoder, streaming):
    bare, length = encoder.length(row("a", 2)), encoder.length(row("a", 2, 2))
    assert length >= bare + 2 * 16
    rows = [row("a", 2, 2), row("b", 2)]
    kept = list(without_too_long(make(rows, streaming), encoder, length - 1, "drop"))
    assert [kept_row["id"] for kept_row in kept] == ["b"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_sample_without_an_id_is_named_by_how_it_is_answered(encoder, caplog, streaming):
    rows = [{key: value for key, value in content.items() if key != "id"} for content in ROWS]
    with caplog.at_level(logging.WARNING, "trainer"):
        list(without_too_long(make(rows, streaming), encoder, 140, "drop"))
    assert "sample the one answered 'dog dog" in caplog.text
    with pytest.raises(ValueError, match="sample the one answered 'dog dog .*' has"):
        list(without_too_long(make(rows, streaming), encoder, 140, "error"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("too_long", ["drop", "error"])
def test_a_faulty_sample_is_named_and_not_dropped(encoder, streaming, too_long):
    rows = [row("short", 2), row("mute", 0)]
    with pytest.raises(ValueError, match="sample mute: an empty answer"):
        list(without_too_long(make(rows, streaming), encoder, 140, too_long))


def test_a_fault_reaches_us_from_another_process(encoder):
    rows = [row("short", 2), row("mute", 0), row("last", 2), row("long", 300)]
    with pytest.raises(ValueError, match="sample mute: an empty answer"):
        without_too_long(make(rows, streaming=False), encoder, 140, "drop", num_proc=2)


def test_a_set_of_which_nothing_would_stay_is_refused(encoder):
    with pytest.raises(ValueError, match="All 5 samples have more than `max_length` 3 tokens"):
        without_too_long(make(ROWS, streaming=False), encoder, 3, "drop")


def test_a_stream_is_checked_as_it_flows(encoder):
    read = []

    def generate():
        for content in ROWS:
            read.append(content["id"])
            yield {
                "id": content["id"],
                "images": [],
                "messages": row("", 2 if content["id"] != "long" else 200)["messages"],
            }

    stream = iter(without_too_long(as_rows(IterableDataset.from_generator(generate)), encoder, 140, "error"))
    assert next(stream)["id"] == "short"
    with pytest.raises(ValueError, match="sample long has"):
        next(stream)
    assert "last" not in read


MIXED = [row(f"sample {number}", 40 if number % 2 else 2) for number in range(64)]


@pytest.fixture
def make_mixed(model, processor, tmp_path):
    """A trainer of samples of two lengths, in batches of two."""

    def make_mixed(rows, **options):
        return make_trainer(model, processor, rows, tmp_path / "out", per_device_train_batch_size=2, **options)

    return make_mixed


def test_samples_of_like_length_share_a_batch(make_mixed):
    lengths_differ = []
    for strategy in ("random", "group_by_length"):
        trainer = make_mixed(Dataset.from_list(MIXED), train_sampling_strategy=strategy)
        batches = [batch["attention_mask"].sum(1).tolist() for batch in trainer.get_train_dataloader()]
        assert len(batches) == 32
        lengths_differ.append(sum(one != other for one, other in batches))
    # Samples are sorted within 16 that are drawn at random, so that one batch in eight may hold both lengths.
    assert lengths_differ[0] > 8 and lengths_differ[1] <= 5


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_lengths_are_counted_once_and_a_run_and_its_evaluation_work(make_mixed, monkeypatch, strategy):
    counted = []

    def count(rows, *options):
        counted.append(rows)
        return count_tokens(rows, *options)

    monkeypatch.setattr("trainer.sft_trainer.count_tokens", count)
    trainer = make_mixed(Dataset.from_list(MIXED), train_sampling_strategy=strategy, max_steps=2)
    trainer.train()
    trainer.get_train_dataloader()
    assert len(counted) == 1
    assert trainer.evaluate(Dataset.from_list(MIXED[:6]))["eval_loss"] > 0


def test_lengths_that_the_samples_bring_are_not_counted(make_mixed, monkeypatch):
    monkeypatch.setattr("trainer.sft_trainer.count_tokens", None)
    rows = Dataset.from_list([{**content, "length": number} for number, content in enumerate(MIXED)])
    trainer = make_mixed(rows, train_sampling_strategy="group_by_length")
    assert list(trainer._get_train_sampler().lengths) == list(range(64))


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_a_stream_cannot_be_sorted(make_mixed, strategy):
    rows = Dataset.from_list(MIXED).to_iterable_dataset()
    with pytest.raises(ValueError, match=f"`train_sampling_strategy` {strategy} needs .*leave it or `streaming` out"):
        make_mixed(rows, train_sampling_strategy=strategy, max_steps=2)

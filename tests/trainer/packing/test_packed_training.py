# SPDX-License-Identifier: Apache-2.0
"""Training on packed samples: the same as on the same samples unpacked, and its metrics, record and refusals."""

import json
import logging
import re
import shutil

import pytest
import torch
from datasets import Dataset
from paths import SCRIPTS
from tiny_parts import make_image, make_tokenizer, save_language_model
from tiny_training import SIZES, losses, make_trainer, save_langbridge, write_samples
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Lfm2Config

from modeling_langbridge import (
    LangBridgeForConditionalGeneration,
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextProcessor,
    LangBridgeProcessor,
)
from trainer import LangBridgeSFTConfig, load_training_data
from trainer.data.conversations import ConversationEncoder
from trainer.data.packing import PackedDataset
from trainer.sft_trainer import LangBridgeSFTTrainer


SCRIPT = SCRIPTS / "train.py"
COLOURS = ["red", "blue", "green", "yellow"]
TWO_STEPS = {"num_train_epochs": 1, "train_sampling_strategy": "sequential", "learning_rate": 1e-3}


def row(number: int) -> dict:
    """Samples with no, one or two images, so filled up with words that they are about equally long."""
    images = [make_image(COLOURS[number % 4])] * (number % 3)
    answer = " ".join(["dog"] * (40 - 17 * len(images) + number % 4))
    messages = [
        {"role": "user", "content": "<image>" * len(images) + "what is in the picture?"},
        {"role": "assistant", "content": f"a {COLOURS[number % 4]} ball {answer}"},
    ]
    return {"id": f"sample-{number}", "images": images, "messages": messages}


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_list([row(number) for number in range(12)])


@pytest.fixture
def capacity(rows, processor) -> int:
    """Room for any three of the samples, and for no four."""
    lengths = list(map(ConversationEncoder(processor).length, rows))
    assert 4 * min(lengths) > 3 * max(lengths)
    return 3 * max(lengths)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train_language_model": "full", "train_vision_tower": "full"},
        {"train_language_model": "lora", "lora_dropout": 0.0},
        {"train_language_model": "full", "activation_checkpointing": True},
        {"train_language_model": "full", "gradient_accumulation_steps": 2, "num_train_epochs": 2},
        {"word_prediction_weight": 1.0},
        {"assignment_prediction_weight": 1.0, "assignment_temperature": 0.1},
        {"label_smoothing_factor": 0.1},
        {"dataloader_num_workers": 2},
    ],
    ids=lambda options: "_".join(options) or "adapter",
)
def test_a_run_on_bins_equals_one_on_batches_of_their_samples(
    vision, text, processor, rows, capacity, tmp_path, options
):
    fields = {"coefficient_activation": "gated_softmax"} if "word_prediction_weight" in options else {}
    base = save_langbridge(vision, text, processor, tmp_path / "base", **fields)

    def train(name: str, dataset: Dataset, **more) -> LangBridgeSFTTrainer:
        model = AutoModelForImageTextToText.from_pretrained(base)
        trainer = make_trainer(model, processor, dataset, tmp_path / name, **{**TWO_STEPS, **options, **more})
        trainer.train()
        return trainer

    packed = train("packed", rows, packing=True, max_length=capacity, per_device_train_batch_size=2)
    order = [position for content in packed.train_dataset.bins for position in content]
    assert [len(content) for content in packed.train_dataset.bins] == [3, 3, 3, 3]
    unpacked = train("unpacked", rows.select(order), per_device_train_batch_size=6)
    assert packed.state.global_step == unpacked.state.global_step == 2
    for name in ("loss", "grad_norm", "num_tokens", "entropy", "word_prediction", "assignment_prediction"):
        expected, found = (
            [float(entry[name]) for entry in trainer.state.log_history if name in entry and "loss" in entry]
            for trainer in (unpacked, packed)
        )
        assert len(expected) == (2 if f"{name}_weight" in options or "_pred" not in name else 0)
        assert found == pytest.approx(expected, rel=1e-5), name
    expected, found = unpacked.model.state_dict(), packed.model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: name + text)


def test_tiles_are_learnt_in_bins_too(vision, text, tmp_path):
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)
    fields = {"model_class": LangBridgeNextForConditionalGeneration}
    base = save_langbridge(vision, text, processor, tmp_path / "base", **fields)
    dataset = load_training_data(str(write_samples(tmp_path, sizes=SIZES)))
    options = {"packing": True, "max_length": 600, "max_steps": 3, "train_language_model": "full"}
    trainer = make_trainer(AutoModelForImageTextToText.from_pretrained(base), processor, dataset, tmp_path, **options)
    trainer.train()
    assert len(trainer.train_dataset) < 12
    assert losses(trainer)[-1] < losses(trainer)[0]


def test_the_log_counts_samples_and_tokens(model, processor, rows, capacity, tmp_path, caplog):
    trainer = make_trainer(
        model, processor, rows, tmp_path / "out", packing=True, max_length=capacity, per_device_train_batch_size=3
    )
    with caplog.at_level(logging.INFO, "trainer"):
        trainer.train()
    assert "Trains on 12 samples in 4 bins: 6 steps of 3 bins." in caplog.text
    total = sum(map(ConversationEncoder(processor).length, rows))
    logged = [entry["num_tokens"] for entry in trainer.state.log_history if "loss" in entry]
    assert [logged[1], logged[3], logged[5]] == [total, 2 * total, 3 * total]


def test_a_batchs_images_and_answer_tokens_are_those_of_its_samples(model, processor, rows, capacity, tmp_path):
    trainer = make_trainer(model, processor, rows, tmp_path / "out", packing=True, max_length=capacity)
    encoded = [ConversationEncoder(processor).encode(row) for row in rows]
    for batch in trainer.get_train_dataloader():
        trainer.throughput.count(batch)
    assert trainer.throughput.images == sum(len(sample["images"]) for sample in encoded)
    assert trainer.throughput.answer_tokens == sum(label != -100 for sample in encoded for label in sample["labels"])


def test_the_record_says_how_many_samples_were_learnt(model, processor, rows, capacity, tmp_path):
    options = {"packing": True, "max_length": capacity, "per_device_train_batch_size": 2, "num_train_epochs": 2}
    trainer = make_trainer(model, processor, rows, tmp_path / "out", **options)
    trainer.train()
    trainer.save_model()
    (record,) = json.loads((tmp_path / "out" / "training_record.json").read_text())
    assert (record["samples"], record["batch_size"], record["steps"], record["epochs"]) == (24, 6, 4, 2)


def test_a_loss_that_is_no_number_names_the_samples_of_its_bins(model, processor, rows, capacity, tmp_path):
    torch.nn.init.constant_(model.model.multi_modal_projector.linear_1.weight, float("nan"))
    options = {"packing": True, "max_length": capacity, "per_device_train_batch_size": 1}
    trainer = make_trainer(model, processor, rows, tmp_path / "out", train_sampling_strategy="sequential", **options)
    names = [sample["id"] for sample in trainer.train_dataset[0]]
    with pytest.raises(FloatingPointError, match=f"on the samples {', '.join(names)}\\."):
        trainer.train()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(vision, text, processor, rows, tmp_path):
    base = save_langbridge(vision, text, processor, tmp_path / "base")
    options = {"packing": True, "max_length": 150, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}

    def trainer_in(name: str) -> LangBridgeSFTTrainer:
        model = AutoModelForImageTextToText.from_pretrained(base)
        return make_trainer(model, processor, rows, tmp_path / name, per_device_train_batch_size=1, **options)

    whole = trainer_in("whole")
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    resumed = trainer_in("resumed")
    resumed.train(resume_from_checkpoint="last")
    assert losses(resumed) == losses(whole)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_going_on_with_other_bins_is_said(vision, text, processor, rows, tmp_path, caplog):
    base = save_langbridge(vision, text, processor, tmp_path / "base")
    options = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 1}
    for more in ({"max_steps": 2}, {"max_steps": 3, "packing": True, "max_length": 150}):
        model = AutoModelForImageTextToText.from_pretrained(base)
        trainer = make_trainer(model, processor, rows, tmp_path / "out", **options, **more)
        trainer.train(resume_from_checkpoint="last" if "packing" in more else None)
    assert "packing: none in the checkpoint, in bins of 150 tokens now; the new one holds" in caplog.text


@pytest.mark.parametrize("eval_packing", [None, True, False])
def test_evaluation_is_packed_as_asked_and_its_loss_is_the_same(
    model, processor, rows, capacity, tmp_path, eval_packing
):
    config = LangBridgeSFTConfig(
        output_dir=str(tmp_path / "out"),
        packing=True,
        eval_packing=eval_packing,
        max_length=capacity,
        use_cpu=True,
        bf16=False,
        report_to="none",
        per_device_eval_batch_size=12,
    )
    trainer = LangBridgeSFTTrainer(model, config, processor, rows, eval_dataset={"some": rows, "others": rows})
    packed = isinstance(trainer.eval_dataset["some"], PackedDataset)
    assert packed == (eval_packing is not False)
    found = trainer.evaluate()["eval_some_loss"]
    assert found == pytest.approx(trainer.evaluate(rows)["eval_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": None}, "`packing` needs `max_length`, the most tokens of a bin"),
        ({"packing_strategy": "wrapped"}, "`packing_strategy` wrapped cuts samples.*: set it to bfd"),
        ({"packing_strategy": "bfd_split"}, "`packing_strategy` bfd_split cuts samples.*: set it to bfd"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length has no use beside `packing`.*: leave one"),
        ({"eval_packing": "yes"}, "`eval_packing` is 'yes': give true or false"),
        ({"packing": False, "eval_packing": True, "max_length": None}, "`packing` needs `max_length`"),
    ],
)
def test_options_that_do_not_go_with_packing_are_refused(tmp_path, options, message):
    options = {"packing": True, "max_length": 150, **options}
    with pytest.raises(ValueError, match=message):
        LangBridgeSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **options)


def test_a_stream_cannot_be_packed(model, processor, rows, tmp_path):
    with pytest.raises(ValueError, match="`packing` needs the lengths of all samples first"):
        make_trainer(model, processor, rows.to_iterable_dataset(), tmp_path, packing=True, max_length=150, max_steps=2)


@pytest.mark.parametrize("option", ["packing", "eval_packing"])
def test_a_language_model_whose_samples_do_not_stay_apart_is_refused(vision, rows, tmp_path, option):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 512}
    config = Lfm2Config(**shape, num_attention_heads=4, num_key_value_heads=2, layer_types=["conv", "full_attention"])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "text")
    make_tokenizer().save_pretrained(tmp_path / "text")
    parts = vision, str(tmp_path / "text")
    processor = LangBridgeProcessor.from_vision_text_pretrained(*parts)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        *parts, list(range(100, 160)), processor, projector_hidden_size=32
    )
    with pytest.raises(ValueError, match="`packing` is not exact with a language model of type lfm2"):
        make_trainer(model, processor, rows, tmp_path / "out", max_length=150, **{option: True})


def test_a_sample_beyond_the_context_is_refused_though_a_bin_has_room(vision, processor, rows, tmp_path):
    text = save_language_model("gpt2", tmp_path / "gpt2")
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor, projector_hidden_size=32
    )
    long = Dataset.from_list([{**row(0), "messages": [*row(0)["messages"][:1], answer(600)]}, row(1)])
    trainer = make_trainer(model, processor, long, tmp_path / "out", packing=True, max_length=1000)
    with pytest.raises(ValueError, match=r"sample sample-0 has \d+ tokens, more than the language model's context"):
        trainer.train()


def answer(num_words: int) -> dict:
    return {"role": "assistant", "content": "dog " * num_words}


def test_the_command_packs(run_script, vision, text, processor, tmp_path):
    base = save_langbridge(vision, text, processor, tmp_path / "base")
    samples = write_samples(tmp_path)
    options = ["--model", base, "--dataset", samples, "--output_dir", tmp_path / "out", "--max_steps", 2]
    options += ["--use_cpu", "true", "--bf16", "false", "--report_to", "none", "--max_length", 128]
    assert "is in" in run_script(*options, "--packing")
    refused = run_script(*options[:4], "--output_dir", tmp_path / "other", *options[6:], "--packing_strategy", "bfd")
    assert re.search("--packing_strategy would have no effect: it needs --packing", refused)

# SPDX-License-Identifier: Apache-2.0
"""The training record and the card of a run: what was done, over resumed runs too, and nothing of the machine."""

import getpass
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny_parts import make_image
from tiny_training import OPTIONS, load_script, losses, save_langbridge, write_samples
from transformers import AutoModelForImageTextToText
from transformers.trainer import TRAINER_STATE_NAME

from hub_cards.training_record import (
    TRAINING_RECORD,
    TrainedPart,
    TrainingRecord,
    file_name,
    hub_id,
    read_training_records,
    write_training_records,
)
from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    SharedVocabulary,
)
from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, load_training_data
from trainer.grounding import GroundingConfig, GroundingTrainer, compose_for_grounding
from trainer.parts import PartArguments
from trainer.publishing.recorder import count_samples, describe_trained, name_stage


RECORD = TrainingRecord(
    stage="finetuning",
    parts={"projector": TrainedPart(mode="full", learning_rate=1e-3)},
    steps=3,
    samples=9,
    batch_size=3,
    optimizer="AdamW",
    schedule="linear",
    precision="float32",
    seed=0,
    hardware="a processor",
    processes=1,
    date="2026-11-25",
    versions={"torch": "2.13.0"},
)


@pytest.fixture
def samples(tmp_path) -> Path:
    return write_samples(tmp_path)


@pytest.fixture
def base(vision, text, processor, tmp_path) -> str:
    return save_langbridge(vision, text, processor, tmp_path / "base")


def make_named_trainer(model, processor, samples, folder, **options) -> LangBridgeSFTTrainer:
    """As a script makes it, which knows what its data were loaded from."""
    config = LangBridgeSFTConfig(output_dir=str(folder), **{**OPTIONS, "max_steps": 3, **options})
    dataset = load_training_data(str(samples))
    names = {"dataset_name": str(samples), "eval_dataset_name": "user/held-out"}
    return LangBridgeSFTTrainer(model, config, processor, dataset, eval_dataset=dataset, **names)


def train(model, processor, samples, folder, **options) -> LangBridgeSFTTrainer:
    trainer = make_named_trainer(model, processor, samples, folder, **options)
    trainer.train()
    trainer.save_model()
    return trainer


def record_of(folder: Path) -> TrainingRecord:
    return read_training_records(folder / TRAINING_RECORD)[-1]


def test_a_record_is_read_as_it_was_written(tmp_path):
    records = [replace(RECORD, seconds=1.5, datasets=["user/é"]), RECORD]
    write_training_records(tmp_path / TRAINING_RECORD, records)
    assert read_training_records(tmp_path / TRAINING_RECORD) == records


@pytest.mark.parametrize(
    "content",
    ["no json", "3", "[3]", '[{"stage": "finetuning"}]', '[{"parts": {"projector": 3}}]'],
)
def test_what_is_no_record_is_refused_by_name(content, tmp_path):
    path = tmp_path / TRAINING_RECORD
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{TRAINING_RECORD} is not a training record") as error:
        read_training_records(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changed", [{"steps": "three"}, {"stage": "preparing"}, {"arguments": {}}])
def test_a_record_has_its_own_fields_and_types_and_no_other(changed, tmp_path):
    path = tmp_path / TRAINING_RECORD
    write_training_records(path, [RECORD])
    path.write_text(json.dumps([{**json.loads(path.read_text())[0], **changed}]))
    with pytest.raises(ValueError, match="is not a training record"):
        read_training_records(path)


def test_of_data_on_this_machine_the_files_name_alone_is_told(tmp_path, monkeypatch):
    (tmp_path / "captions.json").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("captions.json", str(tmp_path / "captions.json"), "gone/with/captions.json"):
        assert (hub_id(name), file_name(name)) == (None, "captions.json")
    assert (hub_id("user/captions"), file_name("user/captions")) == ("user/captions", None)
    assert (hub_id(None), file_name(None)) == (None, None)


def test_a_run_records_what_was_done(model, processor, samples, tmp_path):
    model.config.text_config._name_or_path = "user/text"
    folder = tmp_path / "out"
    trainer = make_named_trainer(
        model,
        processor,
        samples,
        folder,
        max_steps=6,
        projector_learning_rate=0.01,
        train_language_model="full",
        gradient_accumulation_steps=2,
        lr_scheduler_type="cosine",
        seed=7,
    )
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    record = record_of(folder)
    assert record.stage == "finetuning"
    assert record.parts == {
        "vision_tower": TrainedPart(mode="frozen"),
        "projector": TrainedPart(mode="full", learning_rate=0.01),
        "vocabulary_head": TrainedPart(mode="full", learning_rate=0.02),
        "language_model": TrainedPart(mode="full", learning_rate=0.02, hub_id="user/text"),
    }
    assert (record.steps, record.batch_size, record.samples, record.epochs) == (6, 6, 36, 3.0)
    assert (record.local_data, record.datasets) == (["samples.json"], [])
    assert (record.local_eval_data, record.eval_datasets) == ([], ["user/held-out"])
    assert (record.optimizer, record.schedule, record.precision, record.seed) == ("AdamW", "cosine", "float32", 7)
    assert (record.first_loss, record.last_loss) == (losses(trainer)[0], losses(trainer)[-1])
    assert record.eval_loss == float(trainer.state.log_history[-1]["eval_loss"])
    assert record.processes == 1 and record.hardware and record.seconds > 0
    assert record.versions["torch"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text"
    assert "Finetuning: 36 samples (3 epochs) in 6 steps, batch size 6, in " in card.text


def test_the_adapter_alone_has_a_record_and_a_card_of_its_own(base, processor, samples, tmp_path):
    train(AutoModelForImageTextToText.from_pretrained(base), processor, samples, tmp_path / "out")
    assert record_of(tmp_path / "out" / "adapter") == replace(
        record_of(tmp_path / "out"), seconds=record_of(tmp_path / "out" / "adapter").seconds
    )
    card = ModelCard.load(tmp_path / "out" / "adapter" / "README.md")
    assert "adapter without a vision tower and a language model" in card.text
    assert "Pretraining of the adapter alone: 9 samples (0.75 epochs) in 3 steps, batch size 3, " in card.text


@pytest.mark.parametrize(
    ("steps", "batch_size", "dataset_size", "samples_seen"),
    [
        (2, 5, 12, 10),
        (3, 5, 12, 12),  # a last batch of two
        (4, 5, 12, 17),
        (4, 5, None, 20),  # a stream
        (1, 20, 12, 12),
        (6, 6, 12, 36),
    ],
)
def test_samples_are_counted_though_an_epochs_last_batch_is_smaller(steps, batch_size, dataset_size, samples_seen):
    assert count_samples(steps, batch_size, dataset_size) == samples_seen


@pytest.mark.parametrize(("drop_last", "samples_seen"), [(False, 17), (True, 20)])
def test_a_run_records_the_samples_that_it_saw(drop_last, samples_seen, model, processor, samples, tmp_path):
    options = {"per_device_train_batch_size": 5, "max_steps": 4, "dataloader_drop_last": drop_last}
    train(model, processor, samples, tmp_path / "out", **options)
    assert record_of(tmp_path / "out").samples == samples_seen


@pytest.mark.parametrize(
    ("trained", "stage"),
    [
        ({}, "pretraining"),
        ({"train_vocabulary_head": "frozen"}, "pretraining"),
        ({"train_language_model": "full"}, "finetuning"),
        ({"train_vision_tower": "full"}, "finetuning"),
    ],
)
def test_a_stage_is_called_by_what_it_trains(trained, stage, model):
    assert name_stage(describe_trained(model, PartArguments(**trained), {})) == stage


def test_each_checkpoint_has_the_record_of_its_step_and_trl_writes_no_card(model, processor, samples, tmp_path):
    folder = tmp_path / "out"
    make_named_trainer(model, processor, samples, folder, max_steps=4, save_strategy="steps", save_steps=2).train()
    assert [record_of(folder / f"checkpoint-{step}").steps for step in (2, 4)] == [2, 4]
    assert "in 2 steps, batch size 3," in ModelCard.load(folder / "checkpoint-2" / "README.md").text
    assert not (folder / "README.md").exists()  # where no model lies yet


@pytest.mark.parametrize("measured", [True, False], ids=["measured", "an_older_checkpoint"])
def test_time_is_added_up_over_resumed_runs(base, processor, samples, tmp_path, measured):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    train(AutoModelForImageTextToText.from_pretrained(base), processor, samples, tmp_path / "out", **options)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    before = state["stateful_callbacks"].pop("TrainingClock")
    assert before["attributes"]["seconds"] > 0
    if measured:
        state["stateful_callbacks"]["TrainingClock"] = {"args": {}, "attributes": {"seconds": 1000.0}}
    (checkpoint / TRAINER_STATE_NAME).write_text(json.dumps(state))
    model = AutoModelForImageTextToText.from_pretrained(base)
    make_named_trainer(model, processor, samples, tmp_path / "resumed", **options).train(str(checkpoint))
    record = record_of(tmp_path / "resumed" / "checkpoint-4")
    assert record.steps == 4
    if measured:
        assert 1000 < record.seconds < 1060
    else:
        assert record.seconds is None
    assert record.first_loss == float(state["log_history"][0]["loss"])


def test_a_run_that_goes_on_from_a_trained_model_is_recorded_behind_the_first(base, processor, samples, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train(AutoModelForImageTextToText.from_pretrained(base), processor, samples, first)
    train(AutoModelForImageTextToText.from_pretrained(first), processor, samples, second, max_steps=2)
    assert [record.steps for record in read_training_records(second / TRAINING_RECORD)] == [3, 2]
    assert "### Run 2" in ModelCard.load(second / "README.md").text


def test_a_lora_has_a_card_that_says_what_it_is_instead_of_pefts(base, processor, samples, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(base)
    train(model, processor, samples, tmp_path / "out", train_language_model="lora", lora_r=4)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "scripts/merge_lora.py" in card.text and "trained by LoRA of rank 4" in card.text
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.base_model is None


@pytest.mark.parametrize("mode", ["frozen", "lora"])
def test_records_and_cards_hold_nothing_of_this_machine(base, processor, samples, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    folder = tmp_path / "out"
    model = AutoModelForImageTextToText.from_pretrained(base)
    train(model, processor, samples, folder, train_language_model=mode, run_name="a-run", hub_token="hf_another")
    for path in (folder, folder / "adapter"):
        text = (path / "README.md").read_text() + (path / TRAINING_RECORD).read_text()
        for local in (tmp_path.name, "/tmp", "hf_secretsecret", "hf_another", "a-run", socket.gethostname()):
            assert local not in text
        assert f"/{getpass.getuser()}" not in text


def test_a_model_that_no_card_describes_is_saved_all_the_same(model, processor, samples, tmp_path, caplog):
    class OtherConfig(LangBridgeConfig):
        model_type = "somebodys_langbridge"

    model.config.__class__ = OtherConfig
    train(model, processor, samples, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file() and record_of(tmp_path / "out").steps == 3
    assert "No card was written" in caplog.text


def test_a_model_saved_before_it_was_trained_claims_no_training(model, processor, samples, tmp_path):
    make_named_trainer(model, processor, samples, tmp_path / "out").save_model()
    assert not (tmp_path / "out" / TRAINING_RECORD).exists()
    assert "How it was trained" not in ModelCard.load(tmp_path / "out" / "README.md").text


def test_a_grounded_adapter_says_how_it_was_grounded(vision, processor, tmp_path):
    make_image("red").save(tmp_path / "red.png")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "red.png", "caption": "a red ball"}))
    dataset = load_training_data(str(tmp_path / "captions.jsonl"))
    vocabulary = SharedVocabulary([" a", " red", " ball"])
    langbridge, processor = compose_for_grounding(
        vision, vocabulary, projector_hidden_size=40, coefficient_activation="softmax"
    )
    config = GroundingConfig(output_dir=str(tmp_path / "out"), max_steps=2, use_cpu=True, report_to="none")
    trainer = GroundingTrainer(langbridge, config, processor, vocabulary, dataset, dataset_name="user/captions")
    trainer.train()
    trainer.save_model()
    record = record_of(tmp_path / "out" / "adapter")
    assert (record.stage, record.steps, record.datasets) == ("grounding", 2, ["user/captions"])
    assert {name: part.mode for name, part in record.parts.items()} == {
        "vision_tower": "frozen",
        "projector": "full",
        "vocabulary_head": "full",
    }
    card = ModelCard.load(tmp_path / "out" / "adapter" / "README.md")
    assert "Grounding in words" in card.text and card.data.datasets == ["user/captions"]


def test_the_script_names_the_data_and_the_grounding_that_its_adapter_went_through(
    base, processor, samples, vision, text, tmp_path
):
    model = LangBridgeForConditionalGeneration.from_pretrained(base)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    write_training_records(tmp_path / "adapter" / TRAINING_RECORD, [replace(RECORD, stage="grounding")])
    arguments = ["--vision_tower", vision, "--language_model", text, "--adapter", str(tmp_path / "adapter")]
    arguments += ["--dataset", str(samples), "--eval_dataset", str(samples), "--output_dir", str(tmp_path / "out")]
    load_script("train").main([*arguments, "--max_steps", "2", "--report_to", "none", "--use_cpu", "--bf16", "false"])
    grounding, pretraining = read_training_records(tmp_path / "out" / TRAINING_RECORD)
    assert (grounding.stage, pretraining.stage, pretraining.steps) == ("grounding", "pretraining", 2)
    assert pretraining.local_data == pretraining.local_eval_data == [samples.name]

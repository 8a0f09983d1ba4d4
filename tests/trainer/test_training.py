# SPDX-License-Identifier: Apache-2.0
"""Training: the parts that are stated learn, at their rates; faults are named; a loadable folder comes out."""

import json
import logging
import random
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from in_process import run_script_here
from paths import SCRIPTS
from tiny_parts import make_image, save_language_model
from tiny_training import losses, make_trainer, write_samples
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    SharedVocabulary,
)
from trainer import LangBridgeSFTConfig, load_training_data
from trainer.data.conversations import ConversationEncoder
from trainer.model_loading import ModelArguments, compose, load_model
from trainer.parts import PARTS, part_of


SCRIPT = SCRIPTS / "train.py"


@pytest.fixture
def samples(tmp_path) -> Path:
    return write_samples(tmp_path)


@pytest.fixture
def dataset(samples) -> Dataset:
    return load_training_data(str(samples))


def changed_parts(model, before: dict[str, torch.Tensor]) -> set[str]:
    return {part_of(name) for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_by_default_the_adapter_alone_learns_and_the_loss_falls(dataset, model, processor, tmp_path):
    before = snapshot(model)
    three = dataset.select(range(3))
    trainer = make_trainer(model, processor, three, tmp_path / "out", max_steps=30, learning_rate=0.05)
    trainer.train()
    assert changed_parts(model, before) == {"projector", "vocabulary_head"}
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.02


@pytest.mark.parametrize("trained", [["vision_tower"], ["vocabulary_head"], ["projector", "language_model"], PARTS])
def test_the_parts_that_are_stated_learn_and_no_other(dataset, model, processor, tmp_path, trained):
    before = snapshot(model)
    modes = {f"train_{part}": "full" if part in trained else "frozen" for part in PARTS}
    make_trainer(model, processor, dataset, tmp_path / "out", max_steps=2, **modes).train()
    assert changed_parts(model, before) == set(trained)


def test_each_part_learns_at_its_own_rate(dataset, model, processor, tmp_path):
    before = snapshot(model)
    rates = {"projector_learning_rate": 0.0, "language_model_learning_rate": 1e-4}
    trainer = make_trainer(
        model, processor, dataset, tmp_path / "out", max_steps=2, train_language_model="full", **rates
    )
    trainer.train()
    assert changed_parts(model, before) == {"vocabulary_head", "language_model"}
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert {key: float(value) for key, value in logged.items() if key.startswith("learning_rate/")} == {
        "learning_rate/projector": 0.0,
        "learning_rate/vocabulary_head": 0.02,
        "learning_rate/language_model": pytest.approx(1e-4),
    }


def test_what_is_trained_is_said_in_words_and_numbers(dataset, model, processor, tmp_path, caplog):
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    with caplog.at_level(logging.INFO, logger="trainer"):
        make_trainer(model, processor, dataset, tmp_path / "out", vocabulary_head_learning_rate=0.5)
    assert f"vision_tower: frozen, {counts['vision_tower']:,} parameters" in caplog.text
    assert f"projector: trained in full, {counts['projector']:,} parameters at learning rate 0.02" in caplog.text
    assert f"vocabulary_head: trained in full, {counts['vocabulary_head']:,} parameters at learning rate 0.5" in (
        caplog.text
    )


def test_nothing_to_train_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Every part is frozen"):
        LangBridgeSFTConfig(str(tmp_path), train_projector="frozen", train_vocabulary_head="frozen", use_cpu=True)


def test_what_is_trained_is_kept_in_float32_and_what_is_frozen_as_it_was(dataset, model, processor, tmp_path):
    model.to(torch.bfloat16)
    make_trainer(model, processor, dataset, tmp_path / "out", max_steps=1).train()
    dtypes = {part: {p.dtype for n, p in model.named_parameters() if part_of(n) == part} for part in PARTS}
    assert dtypes == {
        "vision_tower": {torch.bfloat16},
        "projector": {torch.float32},
        "vocabulary_head": {torch.float32},
        "language_model": {torch.bfloat16},
    }


@pytest.mark.parametrize("activation", ["softmax", "gated_softmax"])
def test_the_other_activations_train_too(dataset, vision, text, processor, tmp_path, activation):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor, projector_hidden_size=40, coefficient_activation=activation
    )
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=2)
    trainer.train()
    assert torch.isfinite(torch.tensor(losses(trainer))).all()


def test_text_alone_trains_without_an_error_though_only_the_adapter_learns(model, processor, tmp_path):
    dataset = load_training_data(str(write_samples(tmp_path, text_only=lambda index: True)))
    before = snapshot(model)
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2
    assert changed_parts(model, before) == set()


def test_a_dataset_in_memory_trains_as_trl_users_have_it(model, processor, tmp_path):
    rows = [
        {
            "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": colour}],
            "images": [make_image(colour)],
        }
        for colour in ("red", "blue", "green")
    ]
    trainer = make_trainer(model, processor, Dataset.from_list(rows), tmp_path / "out", max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_stream_trains(samples, model, processor, tmp_path):
    dataset = load_training_data(str(samples), streaming=True)
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=6)
    trainer.train()
    assert trainer.state.global_step == 6  # more than one pass over the 12 samples


def test_the_loss_is_measured_on_held_out_samples(dataset, model, processor, tmp_path):
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", per_device_eval_batch_size=2)
    whole = trainer.evaluate(dataset)["eval_loss"]
    assert whole == pytest.approx(trainer.evaluate(dataset.select(range(12)))["eval_loss"])
    assert 4 < whole < 9


def test_too_long_samples_are_refused_or_dropped_never_cut(dataset, model, processor, tmp_path, caplog):
    lengths = {row["id"]: ConversationEncoder(processor).length(row) for row in dataset}
    limit = lengths["sample-0"] - 1
    with pytest.raises(ValueError, match=f"sample sample-0 has {limit + 1} tokens, more than `max_length` {limit}"):
        make_trainer(model, processor, dataset, tmp_path / "out", max_length=limit)
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_length=limit, too_long="drop")
    kept = {name for name, length in lengths.items() if length <= limit}
    assert set(trainer.train_dataset["id"]) == kept and 0 < len(kept) < 12
    assert f"Dropped {12 - len(kept)} of 12 samples" in caplog.text
    with pytest.raises(ValueError, match="All 12 samples have more than `max_length` 5 tokens"):
        make_trainer(model, processor, dataset, tmp_path / "out", max_length=5, too_long="drop")


def test_a_sample_beyond_the_language_models_context_is_named(dataset, model, processor, tmp_path):
    lengths = {row["id"]: ConversationEncoder(processor).length(row) for row in dataset}
    model.config.text_config.max_position_embeddings = limit = max(lengths.values()) - 1
    with pytest.raises(ValueError, match=f"has {limit + 1} tokens, more than the language model's context of {limit}"):
        make_trainer(model, processor, dataset, tmp_path / "out", num_train_epochs=1).train()
    make_trainer(model, processor, dataset, tmp_path / "out", num_train_epochs=1, max_length=limit + 1).train()


def test_a_loss_that_is_no_number_names_the_step_and_the_samples(dataset, model, processor, tmp_path):
    trainer = make_trainer(
        model, processor, dataset.select(range(2)), tmp_path / "out", max_steps=5, save_strategy="steps", save_steps=2
    )
    poison = trainer.model.model.multi_modal_projector.linear_1.bias

    def spoil(parameter):
        if trainer.state.global_step == 2:
            poison.data.fill_(torch.nan)

    poison.register_post_accumulate_grad_hook(spoil)
    with pytest.raises(FloatingPointError, match="nan in step 4") as error:
        trainer.train()
    assert "sample-0" in str(error.value) and "sample-1" in str(error.value)
    assert "checkpoint-2" in str(error.value)


def test_gradients_that_are_no_numbers_stop_the_run_before_they_spoil_a_weight(dataset, model, processor, tmp_path):
    trainer = make_trainer(
        model, processor, dataset, tmp_path / "out", max_steps=5, gradient_accumulation_steps=2, save_strategy="no"
    )
    weight = trainer.model.model.vocabulary_head.weight

    def spoil(parameter):
        if trainer.state.global_step == 1:
            parameter.grad[0, 0] = torch.inf

    weight.register_post_accumulate_grad_hook(spoil)
    with pytest.raises(FloatingPointError, match="gradient's norm is (inf|nan) in step 2") as error:
        trainer.train()
    assert str(error.value).count("sample-") == 6  # two batches of three
    assert "no checkpoint yet" in str(error.value)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_training(samples, model, processor, tmp_path, workers):
    image = tmp_path / "red.png"
    image.write_bytes(image.read_bytes()[:100])
    dataset = load_training_data(str(samples))
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=12, dataloader_num_workers=workers)
    with pytest.raises(ValueError, match=r"^sample sample-\d+: the image .*red.png cannot be decoded"):
        trainer.train()


def test_what_a_run_gets_through_is_logged(dataset, model, processor, tmp_path):
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=4, logging_steps=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert float(entry["images_per_second"]) > 0 and float(entry["answer_tokens_per_second"]) > 0
        assert 0 < float(entry["data_wait_share"]) < 1 and float(entry["peak_memory_gb"]) > 0.1


def test_metrics_go_to_tensorboard_unless_told_otherwise(dataset, model, processor, tmp_path):
    default = LangBridgeSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False).report_to
    make_trainer(model, processor, dataset, tmp_path / "out", max_steps=1, report_to=default).train()
    assert list((tmp_path / "out").rglob("events.out.tfevents*"))


def test_the_folder_that_comes_out_holds_no_pickle(dataset, model, processor, tmp_path):
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=1)
    trainer.train()
    trainer.save_model()
    files = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert ".safetensors" in files and not files & {".bin", ".pt", ".pth", ".pkl"}


def test_the_script_composes_trains_and_saves_a_folder_that_loads(samples, vision, text, tmp_path):
    vocabulary = tmp_path / "vocabulary.json"
    SharedVocabulary([" dog", " ball", " a"]).save(vocabulary)
    arguments = ["--config", str(SCRIPTS / "recipes" / "tiny.yaml"), "--vision_tower", vision]
    arguments += ["--language_model", text, "--vocabulary", str(vocabulary), "--dataset", str(samples)]
    arguments += ["--output_dir", str(tmp_path / "out"), "--max_steps", "2"]
    arguments += ["--preview_photos", str(tmp_path / "red.png"), "--preview_steps", "1"]
    result = run_script_here(SCRIPT, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "projector: trained in full" in result.stderr
    assert AutoProcessor.from_pretrained(tmp_path / "out").image_token == "<image>"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.config.projector_hidden_size == 64
    assert (tmp_path / "out" / "adapter" / "adapter.safetensors").is_file()
    assert (tmp_path / "out" / "preview" / "preview.md").is_file()

    again = run_script_here(SCRIPT, *arguments)
    assert again.returncode != 0
    assert "out is not empty" in again.stderr


def test_a_new_model_is_composed_as_the_options_say_and_can_take_up_an_adapter(samples, vision, text, tmp_path):
    vocabulary = tmp_path / "vocabulary.json"
    SharedVocabulary([" dog", " ball", " a"]).save(vocabulary)
    parts = {"vision_tower": vision, "language_model": text}
    options = {"vocabulary": str(vocabulary), "vocab_size": 2, "projector_hidden_size": 16}
    arguments = ModelArguments(**parts, **options, dtype="bfloat16", attn_implementation="eager")
    model, processor = compose(arguments)
    assert model.dtype == torch.bfloat16
    assert model.config.text_config._attn_implementation == "eager"
    assert model.model.vocabulary_head.weight.shape == (2, 16)

    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    other = save_language_model("gpt2", tmp_path / "other")
    arguments = ModelArguments(vision_tower=vision, language_model=other, adapter=str(tmp_path / "adapter"))
    moved, _ = compose(arguments)
    assert moved.config.text_config.model_type == "gpt2"
    assert torch.equal(moved.model.vocabulary_head.weight, model.model.vocabulary_head.weight.float())


def test_a_whole_model_beside_parts_of_a_new_one_is_refused():
    arguments = ModelArguments(model="whole", language_model="text", adapter="adapter")
    with pytest.raises(ValueError, match="--model is a whole LangBridge; .* leave one side out"):
        load_model(arguments, base=None, needs_folder=False)


def test_the_script_says_what_is_missing():
    arguments = ["--output_dir", "unused", "--dataset", "absent.json", "--use_cpu", "--bf16", "false"]
    result = run_script_here(SCRIPT, *arguments)
    assert result.returncode != 0
    assert "absent.json cannot be read" in result.stderr


@pytest.mark.slow
def test_both_stages_learn_on_real_photos(data, tmp_path):
    """The tiny recipes on 600 samples each: frozen MobileNetV2, and a language model that knows children's stories."""
    words = [str(data / "stories260K"), "--texts", str(data / "caption_text" / "flickr8k_train.txt.gz")]
    command = ["--tokenizers", *words, "--vocab_size", "250", "--output", tmp_path / "words.json"]
    assert run_script_here(SCRIPTS / "create_vocab_subset.py", *command).returncode == 0

    def stage(recipe: str, samples: str, output: str, *model: str) -> list[float]:
        rows = json.loads((data / "llava_format" / samples).read_text())
        (tmp_path / samples).write_text(json.dumps(random.Random(0).sample(rows, 600)))
        arguments = ["--config", str(SCRIPTS / "recipes" / recipe), "--dataset", str(tmp_path / samples)]
        arguments += ["--image_folder", str(data), "--output_dir", str(tmp_path / output), *model]
        arguments += ["--save_strategy", "steps", "--save_steps", "75", "--report_to", "none"]
        result = run_script_here(SCRIPT, *arguments)
        assert result.returncode == 0, result.stderr[-3000:]
        history = json.loads((tmp_path / output / "checkpoint-75" / "trainer_state.json").read_text())["log_history"]
        return [float(entry["loss"]) for entry in history if "loss" in entry]

    parts = ["--vision_tower", str(data / "mobilenetv2_imagenet"), "--language_model", str(data / "stories260K")]
    first = stage("tiny.yaml", "pretrain_flickr8k.json", "first", *parts, "--vocabulary", str(tmp_path / "words.json"))
    second = stage("tiny_finetune.yaml", "instruct_mix.json", "second", "--model", str(tmp_path / "first"))
    for losses_of_stage, fall in ((first, 0.3), (second, 0.6)):
        assert sum(losses_of_stage[-3:]) / 3 < sum(losses_of_stage[:2]) / 2 - fall

# SPDX-License-Identifier: Apache-2.0
"""LangBridge-NeXT is trained as LangBridge is: every part, LoRA and 4 bits, resumed, with objectives and previews."""

import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_parts import make_image
from tiny_training import SIZES, losses, make_trainer, save_langbridge, write_samples
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText

from modeling_langbridge import LangBridgeNextForConditionalGeneration, LangBridgeNextProcessor
from modeling_langbridge.reading.patch_words import name_words
from trainer import PhotoPreviewCallback, load_training_data
from trainer.callbacks.photo_preview import word_closeness
from trainer.checkpointing.lora_merging import merge_lora
from trainer.model_loading import ModelArguments, load_model
from trainer.objectives.word_prediction import word_prediction_loss
from trainer.parts import part_of


NEWLINE = "model.image_newline"
INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_sizes")
GATED = {"coefficient_activation": "gated_softmax"}


@pytest.fixture(scope="module")
def processor(vision, text) -> LangBridgeNextProcessor:
    return LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)


@pytest.fixture(scope="module")
def in_words(vision, text) -> LangBridgeNextProcessor:
    return LangBridgeNextProcessor.from_vision_text_pretrained(vision, text, words_per_image=4)


@pytest.fixture(scope="module")
def save(vision, text, tmp_path_factory):
    """A saved LangBridge-NeXT, one for each set of fields."""
    saved = {}

    def save(processor, **fields) -> str:
        key = (processor.words_per_image, *fields.items())
        if key not in saved:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp("base") / "model"
            saved[key] = save_langbridge(
                vision, text, processor, folder, LangBridgeNextForConditionalGeneration, **fields
            )
        return saved[key]

    return save


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_training_data(str(write_samples(tmp_path_factory.mktemp("data"), sizes=SIZES)))


def load(base: str) -> LangBridgeNextForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(base)


def load_wordy(base: str) -> LangBridgeNextForConditionalGeneration:
    """The same with patches that differ in their words and gates, which the small weights of a new one do not."""
    model = load(base)
    torch.manual_seed(1)
    for part in (model.model.multi_modal_projector, model.model.vocabulary_head):
        for parameter in part.parameters():
            if parameter.dim() == 2:
                parameter.data.normal_(std=0.5)
    return model


def logged(trainer, name: str) -> list[float]:
    return [float(entry[name]) for entry in trainer.state.log_history if name in entry]


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_loss_is_the_models_own(save, processor, dataset, tmp_path):
    model = load(save(processor))
    trainer = make_trainer(
        model, processor, dataset, tmp_path / "out", max_steps=1, per_device_train_batch_size=len(dataset)
    )
    batch = trainer.data_collator(list(dataset))
    batch.pop("sample_ids")
    expected = model.train()(**batch).loss.item()
    trainer.train()
    assert losses(trainer) == pytest.approx([expected], abs=1e-3)


@pytest.mark.parametrize("part", ["vision_tower", "projector", "vocabulary_head", "language_model"])
def test_only_what_is_trained_changes_and_the_newline_is_the_projectors(save, processor, dataset, tmp_path, part):
    model = load(save(processor))
    before = weights_of(model)
    parts = ("vision_tower", "projector", "vocabulary_head", "language_model")
    modes = {f"train_{name}": "full" if name == part else "frozen" for name in parts}
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", max_steps=2, **modes)
    trainer.train()
    changed = {part_of(name) for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
    assert changed == {part}
    assert torch.equal(model.model.image_newline, before[NEWLINE]) == (part != "projector")


def test_a_save_loads_and_its_adapter_alone_has_the_trained_newline(save, processor, dataset, tmp_path):
    trainer = make_trainer(load(save(processor)), processor, dataset, tmp_path / "out", max_steps=2)
    trainer.train()
    trainer.save_model()
    newline = trainer.model.model.image_newline.detach()
    loaded = load(str(tmp_path / "out"))
    assert type(loaded) is LangBridgeNextForConditionalGeneration
    assert torch.equal(loaded.model.image_newline, newline)
    assert torch.equal(load_file(tmp_path / "out" / "adapter" / "adapter.safetensors")["image_newline"], newline)


@pytest.mark.parametrize("options", [{}, {"train_language_model": "lora", "lora_dropout": 0.3}], ids=["full", "lora"])
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(save, processor, dataset, tmp_path, options):
    base = save(processor)
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "cosine"}

    def trainer_in(folder):
        return make_trainer(load(base), processor, dataset, folder, **saving, **options)

    whole = trainer_in(tmp_path / "whole")
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = trainer_in(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint="last")
    expected, found = (weights_of(trainer.model) for trainer in (whole, resumed))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert losses(resumed) == losses(whole)


@pytest.mark.parametrize("in_4_bits", [False, True])
def test_lora_leaves_the_newline_and_is_merged(save, processor, dataset, tmp_path, in_4_bits):
    base = save(processor)
    if in_4_bits:
        pytest.importorskip("bitsandbytes")
    model, _ = load_model(ModelArguments(model=base, load_in_4bit=in_4_bits), base=None, needs_folder=True)
    trainer = make_trainer(model, processor, dataset, tmp_path / "lora", train_language_model="lora", max_steps=3)
    trainer.train()
    trainer.save_model()
    trained = {part_of(name) for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained == {"projector", "vocabulary_head", "language_model"}
    merged, its_processor, difference = merge_lora(tmp_path / "lora")
    assert type(its_processor) is LangBridgeNextProcessor and difference.is_small()
    assert torch.equal(merged.model.image_newline, load(base).model.image_newline)
    batch = trainer.data_collator(list(dataset))
    batch = {name: batch[name] for name in INPUTS}
    with torch.no_grad():
        expected = PeftModel.from_pretrained(load(base), tmp_path / "lora").eval()(**batch).logits
        torch.testing.assert_close(merged(**batch).logits, expected, atol=1e-4, rtol=0)
        assert (load(base)(**batch).logits - expected).abs().max() > 1e-3


def test_lora_refuses_a_newline_that_its_base_does_not_hold(save, processor, dataset, tmp_path):
    model = load(save(processor))
    model.model.image_newline.data += 1
    with pytest.raises(ValueError, match="`model.image_newline` is not as it is in"):
        make_trainer(model, processor, dataset, tmp_path / "lora", train_language_model="lora", max_steps=1)


@pytest.mark.parametrize("words_per_image", [None, 4])
def test_words_are_predicted_from_each_images_patches_without_newlines(
    save, processor, in_words, dataset, tmp_path, words_per_image
):
    processor = processor if words_per_image is None else in_words
    base = save(processor, **GATED)
    options = {"max_steps": 1, "per_device_train_batch_size": len(dataset)}
    plain = make_trainer(load_wordy(base), processor, dataset, tmp_path / "plain", **options)
    plain.train()
    options["word_prediction_weight"] = 2.0
    trainer = make_trainer(load_wordy(base), processor, dataset, tmp_path / "out", **options)
    trainer.train()
    (prediction,) = logged(trainer, "word_prediction")
    assert losses(trainer)[0] == pytest.approx(losses(plain)[0] + 2 * prediction, abs=2e-3)

    (objective,), pooled = trainer.objectives, []
    batch = trainer.data_collator(list(dataset))
    sizes = {"image_sizes": batch["image_sizes"]}
    for coefficients in load_wordy(base).get_image_coefficients(batch["pixel_values"], **sizes):
        pooled.append(coefficients.sum(0) / coefficients.sum())  # gated, (patches, V)
    expected = word_prediction_loss(torch.stack(pooled), batch[objective.name]["targets"])
    assert prediction == pytest.approx(expected.item(), abs=1e-3)


@pytest.mark.parametrize("words_per_image", [None, 4])
def test_assignments_are_those_of_each_images_own_tokens(
    save, processor, in_words, dataset, tmp_path, words_per_image
):
    processor = processor if words_per_image is None else in_words
    model = load_wordy(save(processor, **GATED))
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", assignment_prediction_weight=0.1)
    (objective,) = trainer.objectives
    batch = trainer.data_collator(list(dataset))
    trainer.model(**{name: batch[name] for name in INPUTS})
    visual, _ = objective.scores(model, batch[objective.name], trainer.accelerator)
    images = model.get_image_features(batch["pixel_values"], batch["image_sizes"]).pooler_output
    means = torch.stack([tokens.mean(0) for tokens in images])  # (images, d)
    expected = F.cosine_similarity(means[:, None], model.model.get_word_embeddings(), dim=-1)
    torch.testing.assert_close(visual, expected, atol=1e-5, rtol=1e-4)


def test_both_objectives_train_with_batches_of_text_alone(save, processor, tmp_path):
    samples = write_samples(tmp_path, text_only=lambda index: index >= 6, sizes=SIZES)
    trainer = make_trainer(
        load(save(processor, **GATED)),
        processor,
        load_training_data(str(samples)),
        tmp_path / "out",
        max_steps=4,
        train_sampling_strategy="sequential",
        word_prediction_weight=1.0,
        assignment_prediction_weight=0.1,
    )
    trainer.train()
    for name in ("word_prediction", "assignment_prediction"):
        assert all(value > 0 for value in logged(trainer, name)[:2])
        assert logged(trainer, name)[2:] == [0, 0]  # the batches of text alone


def test_photos_are_previewed_with_a_word_on_each_patch_of_their_tiles(save, processor, dataset, tmp_path):
    photos = [make_image(size=size) for size in SIZES]
    callback = PhotoPreviewCallback(processor, photos, 1, tmp_path / "out", max_new_tokens=3)
    trainer = make_trainer(
        load_wordy(save(processor)), processor, dataset, tmp_path / "out", callbacks=[callback], max_steps=1
    )
    trainer.train()
    assert trainer.state.log_history[0]["word_closeness"] > 0
    model = trainer.model.eval()
    _, words = callback.measure(model)
    assert len(set(callback.grids)) > 1
    names = name_words(processor.tokenizer, model.model.get_word_ids())
    images = model.get_image_features(**processor.image_processor(photos, return_tensors="pt")).pooler_output
    for tokens, (rows, columns), found in zip(images, callback.grids, words, strict=True):
        lines = tokens[16:].unflatten(0, (rows, columns + 1))[:, :-1]  # behind the 16 patches of the whole image
        _, nearest = word_closeness(lines.flatten(0, 1), model.model.get_word_embeddings())
        assert [word for row in found for word in row] == [names[place] for place in nearest]
    assert (tmp_path / "out" / "preview" / "step-000001.png").is_file()

# SPDX-License-Identifier: Apache-2.0
"""The grounding stage: words of captions are learnt without a language model, and any language model takes them up."""

import json
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from in_process import run_script_here
from paths import SCRIPTS
from safetensors.torch import load_file
from tiny_parts import make_image, save_language_model

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeNextForConditionalGeneration,
    SharedVocabulary,
)
from trainer import load_training_data
from trainer.data.dataset_rows import as_rows
from trainer.grounding import (
    GroundingConfig,
    GroundingModel,
    GroundingTrainer,
    RowsByImage,
    compose_for_grounding,
    drop_patches,
)


COLOURS = {"red": "a red ball", "blue": "a blue boat", "green": "on the grass", "yellow": "the yellow dog"}
VOCABULARY = SharedVocabulary([" a", " the", " on", " ball", " boat", " grass", " dog", "."])


@pytest.fixture
def captions(tmp_path) -> Path:
    rows = []
    for colour, caption in COLOURS.items():
        make_image(colour).save(tmp_path / f"{colour}.png")
        rows.append({"id": colour, "image": f"{colour}.png", "caption": caption})
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make_trainer(
    vision,
    processor,
    dataset,
    output_dir,
    activation="gated_softmax",
    model_class=LangBridgeForConditionalGeneration,
    **options,
):
    torch.manual_seed(0)
    langbridge, processor = compose_for_grounding(
        vision, VOCABULARY, model_class, projector_hidden_size=40, coefficient_activation=activation
    )
    options = {
        "max_steps": 40,
        "learning_rate": 0.02,
        "per_device_train_batch_size": 4,
        "logging_steps": 10,
        **options,
    }
    config = GroundingConfig(
        str(output_dir), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", **options
    )
    return GroundingTrainer(langbridge, config, processor, VOCABULARY, dataset, dataset)


@pytest.mark.parametrize("activation", ["gated_softmax", "softmax"])
def test_an_adapter_learns_its_photos_words_and_nothing_else_changes(
    vision, processor, captions, tmp_path, activation
):
    trainer = make_trainer(vision, processor, load_training_data(str(captions)), tmp_path / "out", activation)
    frozen = {
        name: parameter.clone()
        for name, parameter in trainer.model.named_parameters()
        if "multi_modal_projector" not in name and "vocabulary_head" not in name
    }
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.3
    assert all(torch.equal(trainer.model.get_parameter(name), value) for name, value in frozen.items())
    pixel_values = processor.image_processor([make_image(c) for c in COLOURS], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        pooled = trainer.model.langbridge.eval().get_image_coefficients(pixel_values).sum(1)  # (4, V)
    strongest = [VOCABULARY.surfaces[position] for position in pooled[:, 3:7].argmax(-1) + 3]
    assert strongest == [" ball", " boat", " grass", " dog"]


def test_photos_of_any_resolution_are_grounded_in_tiles(vision, text, processor, tmp_path):
    rows = []
    for (colour, caption), size in zip(COLOURS.items(), [(90, 60), (40, 160), (64, 64), (300, 100)], strict=True):
        make_image(colour, size).save(tmp_path / f"{colour}.png")
        rows.append({"image": f"{colour}.png", "caption": caption})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = load_training_data(str(tmp_path / "captions.jsonl"))
    options = {"model_class": LangBridgeNextForConditionalGeneration, "patch_dropout": 0.5}
    trainer = make_trainer(vision, processor, dataset, tmp_path / "out", **options)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    trainer.save_model()
    assert trainer.evaluate()["eval_loss"] < before - 0.3
    images = [make_image(colour, size) for colour, size in zip(COLOURS, [(90, 60), (40, 160)], strict=False)]
    bridge, targets = trainer.model.langbridge.model, torch.eye(2, len(VOCABULARY))
    image_processor = trainer.data_collator.processor.image_processor
    together = trainer.model.eval()(targets, **image_processor(images, return_tensors="pt"))["loss"]
    coefficients = bridge.get_image_coefficients(**image_processor(images, return_tensors="pt"))
    pooled = torch.stack([one.sum(0) / one.sum() for one in coefficients])  # each patch weighs by its gate
    assert together.item() == pytest.approx(-pooled.diagonal().log().mean().item(), rel=1e-3)
    adapter = LangBridgeAdapter.from_pretrained(tmp_path / "out" / "adapter")
    assert type(adapter.join(vision)[0]) is LangBridgeNextForConditionalGeneration


def test_the_patches_entropy_is_logged_beside_the_loss(vision, processor, captions, tmp_path):
    trainer = make_trainer(vision, processor, load_training_data(str(captions)), tmp_path / "out", max_steps=20)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 2
    assert all(0 < float(entry["entropy"]) <= math.log(len(VOCABULARY)) for entry in entries)


def test_patch_dropout_leaves_out_other_patches_of_each_image_and_none_in_evaluation(vision, processor):
    features = torch.arange(2.0 * 8).view(2, 8, 1).expand(2, 8, 3)
    kept = drop_patches(features, 0.75)
    assert kept.shape == (2, 2, 3) and (kept[0] < 8).all() and (kept[1] >= 8).all()
    draws = {tuple(drop_patches(features, 0.75)[0, :, 0].sort().values.tolist()) for _ in range(20)}
    assert len(draws) > 1 and all(len(set(draw)) == 2 for draw in draws)
    assert drop_patches(features, 0.99).shape[1] == 1

    langbridge, _ = compose_for_grounding(
        vision, VOCABULARY, projector_hidden_size=16, coefficient_activation="softmax"
    )
    model = GroundingModel(langbridge, patch_dropout=0.75)
    pixel_values = torch.randn(2, 3, *[langbridge.config.vision_config.image_size] * 2)
    targets = torch.eye(2, len(langbridge.model.vocabulary_head.weight))
    losses = {
        mode: [model.train(mode)(targets, pixel_values=pixel_values)["loss"].item() for _ in range(5)]
        for mode in (True, False)
    }
    assert len(set(losses[True])) > 1 and len(set(losses[False])) == 1


def test_word_precision_is_the_share_of_strongest_words_that_the_caption_uses(vision, processor, captions, tmp_path):
    trainer = make_trainer(vision, processor, load_training_data(str(captions)), tmp_path / "out")
    # Eight surfaces in all, so that all are among the ten strongest: one of eight is a word of each caption.
    assert trainer.evaluate()["eval_word_precision"] == pytest.approx(1 / 8)


def test_rows_of_the_same_image_are_one_with_all_their_captions(vision, processor, captions, tmp_path):
    with captions.open("a") as file:
        for caption in ("a ball on the grass", "the grass", "a dog"):
            file.write("\n" + json.dumps({"image": "red.png", "caption": caption}))
    trainer = make_trainer(vision, processor, load_training_data(str(captions)), tmp_path / "out")
    items = trainer.train_dataset
    assert len(items) == 4 and len(items[0]) == 4
    batch = trainer.data_collator([items[0], items[1]])
    assert batch["pixel_values"].shape[0] == 2
    ball, boat, grass, dog = (VOCABULARY.surfaces.index(f" {word}") for word in ("ball", "boat", "grass", "dog"))
    assert batch["word_targets"][0, [ball, grass, dog]].tolist() == pytest.approx([2 / 5, 2 / 5, 1 / 5])
    assert batch["word_targets"][1].nonzero().tolist() == [[boat]]


def test_images_that_lie_in_the_dataset_are_not_taken_for_one_by_their_name(captions):
    content = [(captions.parent / f"{colour}.png").read_bytes() for colour in ("red", "blue")]
    rows = {"image": [{"bytes": each, "path": "image.png"} for each in content], "caption": ["a ball", "a boat"]}
    assert len(RowsByImage(as_rows(Dataset.from_dict(rows)))) == 2
    files = {"image": [str(captions.parent / "red.png")] * 2, "caption": ["a ball", "a boat"]}
    decoding = Dataset.from_dict(files, features=Features({"image": Image(), "caption": Value("string")}))
    assert len(RowsByImage(as_rows(decoding))) == 1


def test_the_script_leaves_an_adapter_that_two_language_models_take_up_untrained(vision, text, captions, tmp_path):
    VOCABULARY.save(tmp_path / "words.json")
    command = ["--vision_tower", vision, "--tokenizer", text]
    command += ["--dataset", str(captions), "--vocabulary", str(tmp_path / "words.json"), "--output_dir"]
    command += [str(tmp_path / "out"), "--projector_hidden_size", "40", "--max_steps", "5", "--use_cpu"]
    command += ["--feature_cache", str(tmp_path / "features")]
    result = run_script_here(SCRIPTS / "ground.py", *command)
    assert result.returncode == 0, result.stderr[-3000:]
    (features,) = (tmp_path / "features").rglob("*.safetensors")
    assert load_file(features)["features"].shape == (4, 16, 24)  # each photo once
    adapter = tmp_path / "out" / "adapter"
    saved = load_file(adapter / "adapter.safetensors")
    other = save_language_model("gpt2", tmp_path / "other")
    coefficients = []
    for language_model in (text, other):
        model = LangBridgeAdapter.from_pretrained(adapter).join(vision, language_model)[0]
        assert torch.equal(model.model.vocabulary_head.weight, saved["vocabulary_head.weight"])
        pixel_values = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        coefficients.append(model.get_image_coefficients(pixel_values))
    assert torch.equal(*coefficients)
    assert not [path.name for path in (tmp_path / "out").glob("*") if path.suffix in (".bin", ".pt", ".pth")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "red.png", "caption": "zebra"}], "No caption has a word of the vocabulary"),
        (
            [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a dog"}]}],
            "has one image",
        ),
    ],
)
def test_nothing_to_learn_from_is_an_error(vision, processor, captions, tmp_path, rows, message):
    path = tmp_path / "faulty.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=message):
        make_trainer(vision, processor, load_training_data(str(path)), tmp_path / "out")


def test_raw_coefficients_are_refused(vision, processor, captions, tmp_path):
    with pytest.raises(ValueError, match="set `coefficient_activation` to gated_softmax or softmax"):
        make_trainer(vision, processor, load_training_data(str(captions)), tmp_path / "out", activation="linear")


def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(vision, processor, captions, tmp_path):
    dataset = load_training_data(str(captions))
    options = {"max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 3}
    trainers = []
    for name in ("whole", "resumed"):
        trainer = make_trainer(vision, processor, dataset, tmp_path / "out", **options)
        trainer.args.save_strategy = "steps"
        trainer.train(resume_from_checkpoint=None if name == "whole" else str(tmp_path / "out" / "checkpoint-3"))
        trainers.append(trainer)
    for one, other in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        assert torch.equal(one, other)

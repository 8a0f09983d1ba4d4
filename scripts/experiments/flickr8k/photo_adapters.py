# SPDX-License-Identifier: Apache-2.0
"""Adapters for real photos, trained on captions through a language model, or on words without any."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import set_seed
from trl import SFTTrainer

from experiments.adapter_training import train_adapter
from experiments.flickr8k.caption_corpora import caption_dataset
from experiments.flickr8k.photo_world import AdapterWorld
from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
)
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.grounding import GroundingConfig, GroundingTrainer, compose_for_grounding
from trainer.sft_trainer import LangBridgeSFTTrainer


def train_mlp(world: AdapterWorld, language_model: str, seed: int, folder: Path) -> None:
    """LLaVA's MLP, trained on captions with one language model."""
    set_seed(seed)
    text = world.language_model(language_model)
    processor = LangBridgeProcessor.from_vision_text_pretrained(world.tower, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        world.tower, text, processor=processor, adapter_type="mlp"
    )
    steps, rate = world.sizes.adapter_steps, world.sizes.adapter_learning_rate
    train_on_captions(world, model, processor, folder, seed, steps, rate, **world.adapter_schedule)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train_langbridge(world: AdapterWorld, language_model: str, seed: int, folder: Path) -> None:
    """LangBridge as the paper has it, raw coefficients, trained on captions with one language model."""
    set_seed(seed)
    model, processor = compose_raw(world, language_model)
    steps, rate = world.sizes.adapter_steps, world.sizes.adapter_learning_rate
    train_on_captions(world, model, processor, folder, seed, steps, rate, **world.adapter_schedule)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")


def compose_raw(
    world: AdapterWorld, language_model: str
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """LangBridge as the paper has it, untrained."""
    text = world.language_model(language_model)
    processor = LangBridgeProcessor.from_vision_text_pretrained(world.tower, text)
    width = world.sizes.projector_hidden_size
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        world.tower, text, world.vocabulary, processor, projector_hidden_size=width
    )
    return model, processor


def ground(world: AdapterWorld, seed: int, folder: Path) -> None:
    """An adapter trained on the words of captions, with no language model in memory."""
    set_seed(seed)
    langbridge, processor = compose_for_grounding(
        world.tower,
        world.vocabulary,
        projector_hidden_size=world.sizes.projector_hidden_size,
        coefficient_activation="gated_softmax",
    )
    arguments = GroundingConfig(
        output_dir=str(folder),
        max_steps=world.sizes.grounding_steps,
        per_device_train_batch_size=world.sizes.grounding_batch_size,
        learning_rate=world.sizes.grounding_learning_rate,
        patch_dropout=world.sizes.patch_dropout,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        logging_steps=20,
        seed=seed,
        feature_cache=world.feature_folder,
    )
    dataset = caption_dataset(world.photos("train"))
    GroundingTrainer(langbridge, arguments, processor, world.vocabulary, dataset).train()
    LangBridgeAdapter.from_model(langbridge, processor.tokenizer).save_pretrained(folder / "adapter")


def tune(world: AdapterWorld, language_model: str, seed: int, folder: Path) -> None:
    """The grounded adapter, whose words the caption loss with one language model chooses again; word prediction keeps
    them words."""
    set_seed(seed)
    model, processor = load_adapter_onto(world, f"grounded_{seed}", language_model, world.sizes.words_per_image)
    steps, rate = world.sizes.tuning_steps, world.sizes.tuning_learning_rate
    # Muon, though quicker, was worse here: it undoes the words.
    train_on_captions(world, model, processor, folder, seed, steps, rate, word_prediction_weight=1.0, muon=False)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")


def load_adapter_onto(
    world: AdapterWorld, stage: str, language_model: str, words_per_image: int | None = None
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """Joins the adapter that a stage left to a language model, which may be another than it was trained with."""
    adapter = LangBridgeAdapter.from_pretrained(world.output_dir / stage / "adapter")
    return adapter.join(world.tower, world.language_model(language_model), words_per_image=words_per_image)


def train_on_captions(
    world: AdapterWorld,
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    folder: Path,
    seed: int,
    max_steps: int,
    learning_rate: float,
    photos: Sequence[CaptionedPhoto] | None = None,
    judged_on: str | None = "test",
    trainer_class: Callable[..., SFTTrainer] = LangBridgeSFTTrainer,
    **options: Any,
) -> None:
    """Trains an adapter on the captions of photos, as of [`train_adapter`], by default on those of the world's train
    photos; its loss on a split is measured, if any."""
    train_adapter(
        trainer_class,
        model,
        processor,
        folder,
        train_dataset=caption_dataset(photos or world.photos("train")),
        eval_dataset=None if judged_on is None else first_captions(world.photos(judged_on)),
        learning_rate=learning_rate,
        max_steps=max_steps,
        batch_size=world.sizes.adapter_batch_size,
        seed=seed,
        bf16=world.bf16,
        feature_cache=world.feature_folder,
        **options,
    )


def first_captions(photos: Sequence[CaptionedPhoto]) -> Dataset:
    return caption_dataset([dataclasses.replace(photo, captions=photo.captions[:1]) for photo in photos])

# SPDX-License-Identifier: Apache-2.0
"""What a transfer is worth: language model B and an adapter learn together from captions, from seven starts.

Each start joins B with another adapter, or with the same one in another way. Captions of the test photos after some
steps show how far the start is ahead, and for how long.
"""

import dataclasses
import json
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, set_seed

from experiments.flickr8k.caption_corpora import caption_dataset
from experiments.flickr8k.photo_adapters import load_adapter_onto
from experiments.flickr8k.photo_captions import caption_photos
from experiments.flickr8k.photo_world import PhotoWorld
from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
)
from modeling_langbridge.adapter.word_space import set_to_inverse
from trainer.data.feature_cache import FeatureCache
from trainer.distillation import distil
from trainer.evaluation.caption_metrics import caption_scores
from trainer.muon import build_muon
from trainer.sft_trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer


STARTS = {
    "raw": "raw coefficients of A, swapped",
    "words": "grounded words, swapped, kept beside a linear remainder",
    "distilled": "grounded, swapped, distilled into raw coefficients",
    "lifted": "MLP of A, lifted into words, swapped",
    "mlp": "MLP, random",
    "random": "LangBridge, random",
    "permuted": "raw coefficients of A, swapped, B's words permuted",
}

Start = tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]


def make_start(world: PhotoWorld, name: str, seed: int, scratch: Path) -> Start:
    """The model that joint finetuning begins with, by its name in `STARTS`."""
    if name in ("raw", "permuted"):
        model, processor = load_adapter_onto(world, f"langbridge_{seed}", "b")
        if name == "permuted":
            token_ids = model.model.vocabulary_head.token_ids
            token_ids.copy_(token_ids[torch.randperm(len(token_ids))])
        return model, processor
    parts = world.tower, world.language_model("b")
    if name == "words":
        adapter = LangBridgeAdapter.from_pretrained(world.output_dir / f"tuned_{seed}" / "adapter")
        return adapter.join(*parts, words_per_image=world.sizes.words_per_image, linear_remainder=True)
    if name == "distilled":
        model, processor = load_adapter_onto(world, f"grounded_{seed}", "b")
        distil_from_photos(world, model, processor, seed, scratch)
        return model, processor
    processor = LangBridgeProcessor.from_vision_text_pretrained(*parts)
    kind = {"adapter_type": "mlp"} if name == "mlp" else {"projector_hidden_size": world.sizes.projector_hidden_size}
    if name == "lifted":
        mlp = LangBridgeForConditionalGeneration.from_pretrained(world.output_dir / f"mlp_a_{seed}")
        kind["projector_hidden_size"] = mlp.config.text_config.hidden_size
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(*parts, world.vocabulary, processor, **kind)
    if name == "lifted":
        lift_onto(model, mlp, LangBridgeProcessor.from_pretrained(mlp.name_or_path), world)
    return model, processor


@torch.no_grad()
def lift_onto(
    model: LangBridgeForConditionalGeneration,
    mlp: LangBridgeForConditionalGeneration,
    its_processor: LangBridgeProcessor,
    world: PhotoWorld,
) -> None:
    """Gives a model the MLP that was trained with another language model, lifted into that model's words."""
    ids = torch.tensor(world.vocabulary.token_ids(its_processor.tokenizer))  # (V,)
    model.model.multi_modal_projector.load_state_dict(mlp.model.multi_modal_projector.state_dict())
    set_to_inverse(model.model.vocabulary_head, mlp.get_input_embeddings()(ids))


def distil_from_photos(
    world: PhotoWorld,
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    seed: int,
    scratch: Path,
) -> None:
    """Distils a model's words from the train photos, and writes how well that went to `distilled.json`."""
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=world.sizes.distillation_steps,
        per_device_train_batch_size=world.sizes.grounding_batch_size,
        learning_rate=world.sizes.distillation_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        seed=seed,
    )
    images = [photo.image for photo in world.photos("train")]
    r2 = distil(model, processor, images, arguments, world.features(model, processor))
    (scratch / "distilled.json").write_text(json.dumps({"r2": r2}) + "\n", encoding="utf-8")


class Captioning(TrainerCallback):
    """Captions the test photos and scores the captions after the steps that `world.sizes.finetuning_steps` names."""

    def __init__(self, world: PhotoWorld, processor: LangBridgeProcessor, features: FeatureCache):
        self.photos, self.processor, self.features = world.photos("test"), processor, features
        self.steps, self.curve = world.sizes.finetuning_steps, {}

    def caption(self, step: int, model: PreTrainedModel) -> None:
        if step not in self.steps or step in self.curve:
            return
        model.eval()
        captions = caption_photos(model, self.processor, self.photos, self.features)
        model.train()
        scores = caption_scores(captions, {photo.name: photo.captions for photo in self.photos})
        self.curve[step] = {"scores": scores, "captions": captions}

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.caption(0, model)

    def on_step_end(self, args, state, control, model, **kwargs):
        self.caption(state.global_step, model)


def finetune(world: PhotoWorld, start: str, seed: int, folder: Path) -> None:
    """Language model B and an adapter learn together."""
    set_seed(seed)
    model, processor = make_start(world, start, seed, folder)
    sizes, photos = world.sizes, world.photos("test")
    first_captions = [dataclasses.replace(photo, captions=photo.captions[:1]) for photo in photos[:200]]
    arguments = LangBridgeSFTConfig(
        output_dir=str(folder),
        train_language_model="full",
        max_steps=max(sizes.finetuning_steps),
        per_device_train_batch_size=sizes.adapter_batch_size,
        per_device_eval_batch_size=sizes.adapter_batch_size,
        learning_rate=sizes.finetuning_learning_rate,
        lr_scheduler_type="constant_with_warmup",  # so that each step is where a shorter run would have ended
        warmup_steps=10,
        eval_strategy="steps",
        eval_steps=min(step for step in sizes.finetuning_steps if step),
        eval_on_start=True,
        bf16=False,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        logging_steps=25,
        seed=seed,
        feature_cache=world.feature_folder,
    )
    captioning = Captioning(world, processor, world.features(model, processor))
    trainer = LangBridgeSFTTrainer(
        model,
        arguments,
        processor,
        caption_dataset(world.photos("train")),
        caption_dataset(first_captions),
        callbacks=[captioning],
    )
    # A high rate undoes the words.
    rate = sizes.tuning_learning_rate if start == "words" else sizes.finetuning_adapter_learning_rate
    rates = {"projector": rate, "vocabulary_head": rate}
    trainer.optimizer = build_muon(model, sizes.finetuning_learning_rate, part_learning_rates=rates)
    trainer.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    content = json.dumps({"losses": losses, "curve": captioning.curve}, indent=1, ensure_ascii=False)
    (folder / "curve.json").write_text(content + "\n", encoding="utf-8")

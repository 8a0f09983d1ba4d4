# SPDX-License-Identifier: Apache-2.0
"""A tiny CLIP vision tower, trained to name the attributes of synthetic scenes."""

import os
from collections.abc import Sequence

import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Trainer,
    TrainingArguments,
    set_seed,
)

from experiments.synthetic.synthetic_world import (
    COLOURS,
    FIELD,
    IMAGE_SIZE,
    SHAPES,
    SIZES,
    Scene,
)
from modeling_langbridge.utils.files import atomic_folder
from trainer.muon import build_muon


# What the tower learns to tell: each attribute of the left or upper thing, of the other one, and how they lie.
LABELS = [
    f"{place} {name}" for place in ("first", "second") for names in (SIZES, COLOURS, SHAPES) for name in names
] + ["left", "above"]


def scene_labels(scene: Scene) -> list[float]:
    """One number per label of `LABELS`: 1 where it holds in the scene, else 0."""
    true = {f"first {getattr(scene.first, field)}" for field in ("size", "colour", "shape")}
    true |= {f"second {getattr(scene.second, field)}" for field in ("size", "colour", "shape")}
    true.add(scene.relation)
    return [float(label in true) for label in LABELS]


def train_tower(
    scenes: Sequence[Scene],
    images: Sequence[Image.Image],
    output_dir: str | os.PathLike,
    *,
    learning_rate: float,
    max_steps: int,
    batch_size: int = 64,
    seed: int = 0,
) -> None:
    """
    Trains a CLIP vision tower from random weights to name a scene's attributes, and saves it with its image processor,
    whole or not at all. The classification head is not saved.

    The tower gives 49 visual tokens (7 x 7 patches) of width 64 and a class token before them.

    Args:
        scenes (`Sequence[Scene]`):
            The scenes to learn from.
        images (`Sequence[Image.Image]`):
            Their pictures, in the same order.
        output_dir (`str` or `os.PathLike`):
            The folder to be; it must not exist yet, or be empty.
        learning_rate (`float`):
            See [`build_muon`].
        max_steps (`int`):
            Number of optimiser steps.
        batch_size (`int`, *optional*, defaults to 64):
            Pictures per step.
        seed (`int`, *optional*, defaults to 0):
            Of the weights and of the order of the pictures.
    """
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = CLIPImageProcessorPil(
        size=size, crop_size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    vision_config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=FIELD,
    )
    config = CLIPConfig(
        vision_config=vision_config.to_dict(), num_labels=len(LABELS), problem_type="multi_label_classification"
    )
    pixel_values = processor(images=list(images), return_tensors="pt")["pixel_values"]  # (images, 3, 56, 56)
    labels = torch.tensor([scene_labels(scene) for scene in scenes])  # (images, labels)
    with atomic_folder(output_dir) as folder:
        set_seed(seed)
        model = CLIPForImageClassification(config)
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=max_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            logging_steps=100,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            seed=seed,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=[
                {"pixel_values": image, "labels": label} for image, label in zip(pixel_values, labels, strict=True)
            ],
            optimizers=(build_muon(model, learning_rate), None),
        )
        trainer.train()
        model.vision_model.save_pretrained(folder)
        processor.save_pretrained(folder)

# SPDX-License-Identifier: Apache-2.0
"""Samples to a batch: conversations encoded and padded, images opened and processed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from .conversations import ConversationEncoder
from .faults import SampleError
from .feature_cache import FeatureCache
from .images import open_image
from .samples import naming, read_sample


@dataclass
class ConversationCollator:
    """
    Data collator for rows of any form that [`~trainer.data.samples.read_sample`] knows, with several images or none.

    Args:
        encoder ([`~trainer.data.conversations.ConversationEncoder`]):
            What makes tokens and targets of a conversation.
        columns (`Mapping[str, Callable[[list[dict]], dict[str, torch.Tensor]]]`, *optional*):
            Further entries of the batch: by their names, what makes each of the batch's samples.
        context (`int`, *optional*):
            The most tokens that the language model can read, where samples were not counted before.
        features ([`~trainer.data.feature_cache.FeatureCache`], *optional*):
            What images are read from; `pixel_values` are then their features, `(images, tokens, d_v)`.

    Returns, when called with a list of rows:
        `dict` with `input_ids`, `attention_mask` and `labels`, `(batch, sequence)`; `pixel_values`
        `(images, channels, height, width)`, with no image where the batch is text alone, which keeps several processes
        in step (see `LangBridgeModel.get_image_features`); for LangBridge-NeXT, `pixel_values` are `(images, tiles,
        channels, height, width)` and `image_sizes` `(images, 2)` belong to them; `sample_ids`, their names; and the
        `columns`.

    Raises:
        `ValueError`: names the sample and what is wrong with it.
    """

    encoder: ConversationEncoder
    columns: Mapping[str, Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]] = field(default_factory=dict)
    context: int | None = None
    features: FeatureCache | None = None

    def __post_init__(self):
        blank = Image.new("RGB", (64, 64))
        self.no_images = {name: values[:0] for name, values in self.process_images([blank]).items()}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        samples = [self.encode(row) for row in rows]
        return pad(samples, self.encoder.tokenizer.pad_token_id) | self.describe(samples)

    def encode(self, row: dict[str, Any]) -> dict[str, Any]:
        """The sample of a row with `input_ids` and `labels`, and `read_images`, open or as features."""
        with naming(row):
            sample = read_sample(row)
        with naming(sample):
            if self.features is not None:
                read_images = [self.features.read(image) for image in sample["images"]]
            else:
                # Opened before encoding: the size of an image may say how many tokens it has.
                read_images = sample["images"] = [open_image(image) for image in sample["images"]]
            sample = {**self.encoder.encode(sample), "read_images": read_images}
        num_tokens = len(sample["input_ids"])
        if self.context is not None and num_tokens > self.context:
            raise SampleError(
                "too long",
                f"sample {sample['id']} has {num_tokens} tokens, more than the language model's context of "
                f"{self.context}: set `max_length` {self.context} and `too_long` drop, which counts them first"
                f"{self.encoder.advise(sum(sample['num_image_tokens']))}.",
            )
        return sample

    def describe(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """What a batch has of its samples beside their tokens: names, images and columns."""
        images = [image for sample in samples for image in sample["read_images"]]
        batch = {"sample_ids": [sample["id"] for sample in samples]}
        if self.features is not None:
            batch |= self.features.stack(images)
        else:
            batch |= self.process_images(images) if images else self.no_images
        return batch | {name: make_column(samples) for name, make_column in self.columns.items()}

    def process_images(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        return dict(self.encoder.processor.image_processor(images, return_tensors="pt"))


def pad(samples: list[dict[str, Any]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels` `(batch, sequence)` of encoded samples."""
    input_ids = [torch.tensor(sample["input_ids"]) for sample in samples]
    labels = [torch.tensor(sample["labels"]) for sample in samples]
    return {
        "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=pad_token_id),  # (batch, sequence)
        "attention_mask": pad_sequence([torch.ones_like(ids) for ids in input_ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }

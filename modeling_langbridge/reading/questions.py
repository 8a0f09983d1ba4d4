# SPDX-License-Identifier: Apache-2.0
"""Prepares a question about images as the inputs of a model."""

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature, ProcessorMixin


def prepare_question(processor: ProcessorMixin, images: Sequence[Any], question: str) -> BatchFeature:
    """
    Prepares the inputs for the same question about each of several images.

    Args:
        processor ([`ProcessorMixin`]): The processor of a LangBridge or a LLaVA.
        images (`Sequence`): What `processor.open_image` opens: PIL images, paths, URLs …
        question (`str`): The question; the image comes before it.

    Returns:
        [`BatchFeature`] of `input_ids` and `attention_mask` `(images, sequence)`, padded where the processor pads; and
        of `pixel_values`, with `image_sizes` where images are in tiles.
    """
    content = [[{"type": "image", "image": image}, {"type": "text", "text": question}] for image in images]
    return processor.apply_chat_template(
        [[{"role": "user", "content": blocks}] for blocks in content],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        # Images in tiles have different numbers of visual tokens. A tokenizer that has padded once is saved so.
        processor_kwargs={"padding": len(images) > 1},
    )

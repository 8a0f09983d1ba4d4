# SPDX-License-Identifier: Apache-2.0
"""Prepares questions about images as the inputs of a model."""

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
        [`BatchFeature`] as of [`prepare_conversations`].
    """
    content = [[{"type": "image", "image": image}, {"type": "text", "text": question}] for image in images]
    return prepare_conversations(processor, [[{"role": "user", "content": blocks}] for blocks in content])


def prepare_conversations(
    processor: ProcessorMixin, conversations: Sequence[Sequence[dict[str, Any]]]
) -> BatchFeature:
    """
    Prepares the inputs for the answers to conversations, by the chat template.

    Args:
        processor ([`ProcessorMixin`]): The processor of a LangBridge or another vision-language model.
        conversations (`Sequence`): Of each the turns, `{"role": …, "content": […]}`; the last one is a question.

    Returns:
        [`BatchFeature`] of `input_ids` and `attention_mask` `(conversations, sequence)`, padded where the processor
        pads; and of `pixel_values` where there are images, with `image_sizes` where they are in tiles.
    """
    return processor.apply_chat_template(
        list(conversations),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        # Images in tiles have different numbers of visual tokens. A tokenizer that has padded once is saved so.
        processor_kwargs={"padding": len(conversations) > 1},
    )

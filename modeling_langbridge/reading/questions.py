# SPDX-License-Identifier: Apache-2.0
"""A question about images as a model's inputs."""

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature, ProcessorMixin


def prepare_question(processor: ProcessorMixin, images: Sequence[Any], question: str) -> BatchFeature:
    """
    The inputs with which a model answers the same question about each of several images.

    Args:
        processor ([`ProcessorMixin`]): a LangBridge's or a LLaVA's.
        images (`Sequence`): what chat templates take: PIL images, paths or URLs.
        question (`str`): asked about each image, which stands before it.

    Returns:
        [`BatchFeature`] of `input_ids` and `attention_mask` `(images, sequence)`, and `pixel_values`.
    """
    content = [[{"type": "image", "image": image}, {"type": "text", "text": question}] for image in images]
    return processor.apply_chat_template(
        [[{"role": "user", "content": blocks}] for blocks in content],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        # Templates write the beginning-of-text token themselves; tokenizers such as Llama's would add a second one.
        processor_kwargs={"add_special_tokens": False},
    )

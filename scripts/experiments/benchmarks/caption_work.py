# SPDX-License-Identifier: Apache-2.0
"""What a model multiplies for an image and its caption."""

import torch
from transformers import PreTrainedModel

from trainer.planning.counted_products import CountedProducts


@torch.no_grad()
def count_caption(model: PreTrainedModel, inputs: dict[str, torch.Tensor], new_tokens: int) -> list[int]:
    """
    Counts a caption's multiply-adds, but for the first image's, which folds the adapter.

    Args:
        model (`PreTrainedModel`): a LLaVA or a LangBridge in inference; its tensors may be fake.
        inputs (`dict[str, torch.Tensor]`): of one image.
        new_tokens (`int`): tokens of the caption.

    Returns:
        `list[int]`: multiply-adds of tower and adapter, of the language model's reading, and of its writing.
    """
    model.get_image_features(inputs["pixel_values"])
    with CountedProducts() as looking:
        model.get_image_features(inputs["pixel_values"])
    with CountedProducts() as reading:
        cache = model(**inputs, logits_to_keep=1).past_key_values
    with CountedProducts() as writing:
        for _ in range(new_tokens - 1):
            model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)
    looked, read, written = (counted.multiply_adds.total() for counted in (looking, reading, writing))
    return [looked, read - looked, written]

# SPDX-License-Identifier: Apache-2.0
"""Visual tokens for a stock text server: a content part of type `prompt_embeds`, as vLLM's chat API takes it."""

import base64
from io import BytesIO
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin


@torch.no_grad()
def langbridge_prompt_embeds(
    model: PreTrainedModel, processor: ProcessorMixin, images: list[Any], text: str
) -> dict[str, str]:
    """
    What a LangBridge's language model would read of images and a text, as a part of a chat message for a server of
    that language model alone (vLLM: `--enable-prompt-embeds`).

    The part stands alone in its message: the server sets the chat template around it.

    Args:
        model (`LangBridgeForConditionalGeneration`): With any adapter.
        processor (`LangBridgeProcessor`): The model's.
        images (`list`): What `processor.open_image` opens, in their order.
        text (`str`): What is asked about them.

    Returns:
        `dict[str, str]`: the part, `{"type": "prompt_embeds", "data": …}`, where `data` is the base64 of what
        `torch.save` writes of a tensor `(tokens, d)` in the model's dtype.
    """
    marked = "\n".join([processor.image_token] * len(images) + [text])
    inputs = processor(text=marked, images=images or None, add_special_tokens=False, return_tensors="pt")
    inputs = inputs.to(model.device, dtype=model.dtype)
    input_ids = inputs.pop("input_ids")
    embeddings = model.get_input_embeddings()(input_ids)[0]  # (tokens, d)
    if images:
        inputs.pop("attention_mask")
        visual_tokens = torch.cat(model.get_image_features(**inputs).pooler_output)  # (visual tokens, d)
        embeddings[input_ids[0] == processor.image_token_id] = visual_tokens.to(embeddings.dtype)
    saved = BytesIO()
    torch.save(embeddings.cpu().contiguous(), saved)
    return {"type": "prompt_embeds", "data": base64.b64encode(saved.getvalue()).decode()}

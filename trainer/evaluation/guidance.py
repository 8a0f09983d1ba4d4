# SPDX-License-Identifier: Apache-2.0
"""Answers that keep closer to the images than a language model does by itself: classifier-free guidance.

Source: Sanchez et al., "Stay on topic with Classifier-Free Guidance", arXiv 2306.17806, which transformers implements.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from modeling_langbridge.reading.questions import prepare_conversations


def guide(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: Sequence[Sequence[dict[str, Any]]],
    guidance_scale: float,
) -> dict[str, Any]:
    """
    Arguments of `generate` that guide it away from what the model says in the same conversations without images.

    The next token's log-probabilities become those without images, plus `guidance_scale` times what the images add.

    Args:
        model ([`PreTrainedModel`]): Whose `generate` takes them.
        processor ([`ProcessorMixin`]), conversations (`Sequence`): As of [`prepare_conversations`], which makes
            `generate`'s other inputs of them.
        guidance_scale (`float`): 1 changes nothing. Higher ones keep closer to the images, and less to the language.

    Returns:
        `dict`: For greedy answers and sampling, as transformers guides no beams. A language model that learns
        positions, such as GPT-2, finds the shorter conversations of a batch at wrong ones.
    """
    unseen = [[leave_out_images(turn) for turn in conversation] for conversation in conversations]
    blind = prepare_conversations(processor, unseen).to(model.device)
    return {
        "guidance_scale": guidance_scale,
        "negative_prompt_ids": blind["input_ids"],
        "negative_prompt_attention_mask": blind["attention_mask"],
    }


def leave_out_images(turn: dict[str, Any]) -> dict[str, Any]:
    content = turn["content"]
    return turn if isinstance(content, str) else {**turn, "content": [piece for piece in content if "text" in piece]}

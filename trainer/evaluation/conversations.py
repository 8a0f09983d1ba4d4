# SPDX-License-Identifier: Apache-2.0
"""Conversations about images as a model's inputs, and what keeps its answers closer to the images."""

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature, PreTrainedModel, ProcessorMixin


Conversation = Sequence[dict[str, Any]]  # turns, as chat templates take them


def prepare(processor: ProcessorMixin, conversations: Sequence[Conversation]) -> BatchFeature:
    """
    A batch of a model's inputs, which end where the answers begin.

    Args:
        processor ([`ProcessorMixin`]): the model's; padded where its tokenizer pads.
        conversations (`Sequence`): each with the question as its last turn.
    """
    return processor.apply_chat_template(
        list(conversations),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


def guide(
    model: PreTrainedModel, processor: ProcessorMixin, conversations: Sequence[Conversation], guidance_scale: float
) -> dict[str, Any]:
    """
    Arguments of `generate` for answers that keep closer to the images: classifier-free guidance
    (https://huggingface.co/papers/2306.17806) away from what the model says in the same conversations without them.

    The next token's log-probabilities are those without images, and `guidance_scale` times what the images add.

    Args:
        model ([`PreTrainedModel`]): whose `generate` takes them.
        processor ([`ProcessorMixin`]), conversations (`Sequence`): as for [`prepare`].
        guidance_scale (`float`): 1 changes nothing. Higher ones keep closer to the images, and less to the language.

    Returns:
        `dict`: for greedy answers and sampling, as transformers guides no beams. A language model that learns
        positions, such as GPT-2, finds the shorter conversations of a batch at wrong ones.
    """
    unseen = [[leave_out_images(turn) for turn in conversation] for conversation in conversations]
    blind = prepare(processor, unseen).to(model.device)
    return {
        "guidance_scale": guidance_scale,
        "negative_prompt_ids": blind["input_ids"],
        "negative_prompt_attention_mask": blind["attention_mask"],
    }


def leave_out_images(turn: dict[str, Any]) -> dict[str, Any]:
    return {**turn, "content": [piece for piece in turn["content"] if piece["type"] != "image"]}

# SPDX-License-Identifier: Apache-2.0
"""Answers by greedy decoding: a vision-language model's about images, and a language model's to plain prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_langbridge.chat_templates import begins_with_bos
from modeling_langbridge.reading.questions import prepare_question

from ..data.images import open_image


def ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Any],
    question: str,
    *,
    batch_size: int = 50,
    max_new_tokens: int = 30,
    **generate_kwargs: Any,
) -> list[str]:
    """
    Asks a model the same question about each of several images.

    Args:
        model ([`PreTrainedModel`]): such as a LangBridge or a LLaVA, in eval mode.
        processor ([`ProcessorMixin`]): the model's.
        images (`Sequence`): anything that [`~trainer.data.images.open_image`] opens.
        question (`str`): empty for models that know no instructions: the image alone is then the prompt.
        batch_size (`int`, *optional*, defaults to 50): images at a time.
        max_new_tokens (`int`, *optional*, defaults to 30): length at which an answer is cut.
        generate_kwargs: further arguments of `model.generate`.

    Returns:
        `list[str]`: the answers, one line each.
    """
    answers: list[str] = []
    for start in tqdm(range(0, len(images), batch_size), desc="captioning", delay=5):
        opened = [open_image(image) for image in images[start : start + batch_size]]
        inputs = prepare_question(processor, opened, question).to(model.device, dtype=model.dtype)
        answers += generate_answers(model, processor.tokenizer, inputs, max_new_tokens, **generate_kwargs)
    return answers


def complete_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    batch_size: int = 100,
    max_new_tokens: int = 30,
) -> list[str]:
    """
    Lets a language model continue plain prompts.

    Args:
        model ([`PreTrainedModel`]): a causal language model in eval mode.
        tokenizer ([`PreTrainedTokenizerBase`]): the model's, with a pad token.
        prompts (`Sequence[str]`): taken as they are, without a chat template or special tokens.
        batch_size (`int`, *optional*, defaults to 100): prompts at a time.
        max_new_tokens (`int`, *optional*, defaults to 30): length at which an answer is cut.

    Returns:
        `list[str]`: the continuations, without the prompts, one line each.
    """
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        inputs = tokenizer(batch, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
        answers += generate_answers(model, tokenizer, inputs.to(model.device), max_new_tokens)
    return answers


def ask_about_tokens(processor: ProcessorMixin, visual_tokens: torch.Tensor, question: str) -> dict[str, Any]:
    """
    Prepares the same question about visual tokens in place of each of several photos.

    Args:
        processor ([`ProcessorMixin`]): the model's.
        visual_tokens (`torch.Tensor` of shape `(photos, tokens, d)`): on the model's device; any number of them.
        question (`str`): asked about them, by the chat template.

    Returns:
        `dict[str, Any]`: the model's inputs.
    """
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    prompt = prompt.replace(processor.image_token, processor.image_token * visual_tokens.shape[1], 1)
    adds_special_tokens = not begins_with_bos(processor.tokenizer, prompt)
    prompts = [prompt] * len(visual_tokens)
    inputs = processor.tokenizer(prompts, add_special_tokens=adds_special_tokens, return_tensors="pt")
    inputs = inputs.to(visual_tokens.device)
    encoded = BaseModelOutputWithPooling(pooler_output=list(visual_tokens))
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "mm_encoder_outputs": {"image": encoded},
    }


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, torch.Tensor],
    max_new_tokens: int,
    **generate_kwargs: Any,
) -> list[str]:
    """What a model generates greedily after its inputs, each answer as one line."""
    texts = generate_texts(model, tokenizer, inputs, do_sample=False, max_new_tokens=max_new_tokens, **generate_kwargs)
    return [" ".join(text.split()) for text in texts]


@torch.no_grad()
def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, torch.Tensor],
    **generate_kwargs: Any,
) -> list[str]:
    """What a model generates after its inputs, as it stands but for special tokens."""
    output = model.generate(**inputs, tokenizer=tokenizer, **generate_kwargs)  # which `stop_strings` need
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

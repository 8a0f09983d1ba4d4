# SPDX-License-Identifier: Apache-2.0
"""Captions by greedy decoding: of photos through a vision-language model, and of plain prompts through a bare one."""

from collections.abc import Sequence

import torch
from tqdm import tqdm
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from ..data.captioned_photos import CaptionedPhoto


def caption_photos(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    photos: Sequence[CaptionedPhoto],
    *,
    batch_size: int = 50,
    max_new_tokens: int = 30,
) -> dict[str, str]:
    """
    Captions each photo, the photo alone being the prompt, as [`caption_dataset`] trains it.

    Args:
        model ([`PreTrainedModel`]): such as a LangBridge or LLaVA, in eval mode.
        processor ([`ProcessorMixin`]): the model's.
        photos (`Sequence[CaptionedPhoto]`): what to caption.
        batch_size (`int`, *optional*, defaults to 50): photos at a time.
        max_new_tokens (`int`, *optional*, defaults to 30): length at which a caption is cut.

    Returns:
        `dict[str, str]`: caption by photo name.
    """
    captions: dict[str, str] = {}
    for start in tqdm(range(0, len(photos), batch_size), desc="captioning"):
        batch = photos[start : start + batch_size]
        content = [[{"type": "image", "image": photo.image}, {"type": "text", "text": ""}] for photo in batch]
        inputs = processor.apply_chat_template(
            [[{"role": "user", "content": blocks}] for blocks in content],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"add_special_tokens": False},
        )
        answers = _generate(model, processor.tokenizer, inputs, max_new_tokens)
        captions.update((photo.name, answer) for photo, answer in zip(batch, answers, strict=True))
    return captions


def complete_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    batch_size: int = 100,
    max_new_tokens: int = 30,
) -> list[str]:
    """
    Lets a language model go on from plain prompts.

    Args:
        model ([`PreTrainedModel`]): a causal language model in eval mode.
        tokenizer ([`PreTrainedTokenizerBase`]): the model's, with a pad token.
        prompts (`Sequence[str]`): taken as they are, without a chat template or special tokens.
        batch_size (`int`, *optional*, defaults to 100): prompts at a time.
        max_new_tokens (`int`, *optional*, defaults to 30): length at which an answer is cut.

    Returns:
        `list[str]`: the continuations, without the prompts.
    """
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        inputs = tokenizer(batch, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
        answers += _generate(model, tokenizer, inputs, max_new_tokens)
    return answers


@torch.no_grad()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, inputs: BatchFeature, max_new_tokens: int
) -> list[str]:
    output = model.generate(**inputs.to(model.device), do_sample=False, max_new_tokens=max_new_tokens)
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [" ".join(answer.split()) for answer in answers]

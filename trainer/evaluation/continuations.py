# SPDX-License-Identifier: Apache-2.0
"""Answers as evaluation harnesses ask for them: free ones up to a stopping sequence, and the loss of given ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, ProcessorMixin

from .answering import prepare_questions
from .captioning import generate_texts
from .questions import Question


SAMPLING = ("temperature", "top_p", "top_k")
OPTIONS = ("max_new_tokens", "num_beams", "do_sample", "until", *SAMPLING)
MAX_NEW_TOKENS = 1024  # lmms-eval's own, where a task has none


def answer_until(
    model: PreTrainedModel, processor: ProcessorMixin, questions: Sequence[Question], options: Mapping[str, Any]
) -> list[str]:
    """
    Answers questions in one batch, which is padded on the left.

    Args:
        model ([`PreTrainedModel`]): in eval mode.
        processor ([`ProcessorMixin`]): the model's, with a tokenizer that pads on the left.
        questions (`Sequence[Question]`): with any number of images each.
        options (`Mapping`):
            A task's `generation_kwargs` of lmms-eval. `until` (`str` or `list[str]`) is what an answer ends before.
            Without `do_sample`, answers are greedy, and the options of sampling mean nothing.

    Returns:
        `list[str]`: the answers.

    Raises:
        `ValueError`: an option that is not known here.
    """
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise ValueError(f"generation_kwargs has {unknown[0]!r}, which is none of {', '.join(OPTIONS)}.")
    sampled = bool(options.get("do_sample"))
    settings = {
        "max_new_tokens": options.get("max_new_tokens", MAX_NEW_TOKENS),
        "num_beams": options.get("num_beams", 1),
        "do_sample": sampled,
        **{name: options[name] for name in SAMPLING if sampled and name in options},
    }
    until = options.get("until") or []
    endings = [until] if isinstance(until, str) else [ending for ending in until if ending]
    if endings:
        settings["stop_strings"] = endings
    inputs = prepare_questions(processor, questions).to(model.device, dtype=model.dtype)
    return [cut(text, endings) for text in generate_texts(model, processor.tokenizer, inputs, **settings)]


def cut(text: str, endings: Sequence[str]) -> str:
    """A text before the first of some endings that is in it."""
    for ending in endings:
        text = text.partition(ending)[0]
    return text


@torch.no_grad()
def continuation_losses(
    model: PreTrainedModel, processor: ProcessorMixin, questions: Sequence[Question], continuations: Sequence[str]
) -> list[tuple[float, bool]]:
    """
    How likely a model finds given answers.

    Args:
        model, processor, questions: as for [`answer_until`].
        continuations (`Sequence[str]`): an answer for each question.

    Returns:
        `list[tuple[float, bool]]`: for each the mean loss of its tokens, in nats, and whether it is the greedy answer.

    Raises:
        `ValueError`: an answer is empty.
    """
    tokenizer = processor.tokenizer
    answers = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in continuations]
    if not all(answers):
        raise ValueError("A continuation is empty: its loss is not defined.")
    inputs = prepare_questions(processor, questions)
    prompts = [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    rows = [torch.cat([ids, torch.tensor(answer)]) for ids, answer in zip(prompts, answers, strict=True)]
    # On the right: a forward pass, unlike `generate`, counts positions from the first token, padding included.
    inputs["input_ids"] = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    inputs["attention_mask"] = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    logits = model(**inputs.to(model.device, dtype=model.dtype)).logits
    found = []
    for row, prompt, answer in zip(logits, prompts, answers, strict=True):
        predicted = row[len(prompt) - 1 : len(prompt) - 1 + len(answer)].float()
        targets = torch.tensor(answer, device=predicted.device)
        greedy = bool((predicted.argmax(-1) == targets).all())
        found.append((cross_entropy(predicted, targets).item(), greedy))
    return found

# SPDX-License-Identifier: Apache-2.0
"""Answers to questions in batches, written as they come, by one or several processes."""

import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from modeling_langbridge.reading.questions import prepare_conversations

from ..data.images import open_image
from .answer_files import AnswerFiles
from .captioning import generate_answers
from .decoding import GREEDY, Decoding
from .questions import Question


def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: Sequence[Question],
    max_new_tokens: int,
    decoding: Decoding = GREEDY,
) -> list[str]:
    """
    Answers questions, all in one batch, which is padded on the left.

    Args:
        model ([`PreTrainedModel`]): in eval mode.
        processor ([`ProcessorMixin`]): the model's, with a tokenizer that pads on the left.
        questions (`Sequence[Question]`): with any number of images each.
        max_new_tokens (`int`): length at which an answer is cut.
        decoding ([`Decoding`], *optional*): how answers are written; greedily by default.

    Returns:
        `list[str]`: the answers, one line each.
    """
    conversations = list(map(conversation_of, questions))
    inputs = prepare_conversations(processor, conversations).to(model.device, dtype=model.dtype)
    decoded = decoding.generate_kwargs(model, processor, conversations, inputs)
    return generate_answers(model, processor.tokenizer, inputs, max_new_tokens, **decoded)


def prepare_questions(processor: ProcessorMixin, questions: Sequence[Question]) -> BatchFeature:
    """A batch of the model's inputs, which end where the answers begin."""
    return prepare_conversations(processor, list(map(conversation_of, questions)))


def conversation_of(question: Question) -> list[dict[str, Any]]:
    """A question with its examples, which are the turns before it."""
    turns = [turn for example in question.examples for turn in (ask_turn(example), answer_turn(example))]
    return [*turns, ask_turn(question)]


def ask_turn(question: Question) -> dict[str, Any]:
    """A turn of the user's, in which a question's images come before it."""
    images = [{"type": "image", "image": open_image(image)} for image in question.images]
    return {"role": "user", "content": [*images, {"type": "text", "text": question.prompt}]}


def answer_turn(question: Question) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": question.right_answer}]}


def answer_all(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: Sequence[Question],
    shown: str,
    files: AnswerFiles,
    *,
    max_new_tokens: int,
    batch_size: int,
    decoding: Decoding = GREEDY,
) -> float:
    """
    Answers the questions that have no answer yet, and writes each batch to a file at once.

    Args:
        model, processor, max_new_tokens, decoding: as for [`answer`].
        questions (`Sequence[Question]`): this process's share.
        shown (`str`): what stands in the place of the picture, for the progress bar and the rows.
        files ([`AnswerFiles`]): where answers are looked for, and written.
        batch_size (`int`): how many questions at a time.

    Returns:
        `float`: images per second; 0 where nothing was left to do.
    """
    left = [question for question in questions if (shown, question.key) not in files.answered]
    begun, images = time.perf_counter(), 0
    hidden = True if files.process else None  # `None` shows it in a terminal, not in a log
    with tqdm(total=len(left), desc=shown, unit=" questions", disable=hidden) as progress:
        for start in range(0, len(left), batch_size):
            batch = left[start : start + batch_size]
            found = answer(model, processor, batch, max_new_tokens, decoding)
            files.write([row_of(question, shown, text) for question, text in zip(batch, found, strict=True)])
            images += sum(len(question.images) for question in batch)
            progress.update(len(batch))
            progress.set_postfix_str(f"{images / (time.perf_counter() - begun):.2f} images/s")
    return images / (time.perf_counter() - begun) if left else 0.0


def row_of(question: Question, shown: str, answer: Any) -> dict[str, Any]:
    return {
        "shown": shown,
        "key": question.key,
        "picture": question.picture,
        "prompt": question.prompt,
        "answer": answer,
        "references": question.references,
    }

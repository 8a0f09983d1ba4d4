# SPDX-License-Identifier: Apache-2.0
"""Retrieval as a task of an evaluation: each photo's queries, and how many of them find what they look for."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from modeling_langbridge import LangBridgeConfig

from .answer_files import AnswerFiles
from .answering import row_of
from .controls import ANOTHER, NONE, OWN
from .questions import Question, name_image
from .retrieval import KS, fit_by_states, fit_by_words, hits_at
from .word_scores import gives_distributions, reading_words


def retrieve(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: Sequence[Question],
    others: dict[str, object] | None,
    files: AnswerFiles,
) -> None:
    """
    Fits photos to captions by the adapter's words, and writes each photo's hits.

    Args:
        model, processor: a LangBridge checkpoint's.
        questions (`Sequence[Question]`): photos with captions.
        others (`dict`, *optional*): for controls: by the name of each photo another one. Without a picture is chance.
        files ([`AnswerFiles`]): where the hits are written.

    Raises:
        `ValueError`: the scores are not finite.
    """
    images = [question.images[0] for question in questions]
    captions = [caption for question in questions for caption in question.references]
    vocabulary, embeddings = reading_words(model, processor.tokenizer)
    if gives_distributions(model.config):
        fit, _ = fit_by_words(model.model, processor.image_processor, vocabulary, images, captions)
    else:
        fit, _ = fit_by_states(model, processor, embeddings, images, captions)
    shown = {OWN: fit}
    if others is not None:
        places = {name_image(image): place for place, image in enumerate(images)}
        other = [places[name_image(others[name_image(image)])] for image in images]
        shown |= {NONE: torch.zeros_like(fit), ANOTHER: fit[other]}
    for name, scores in shown.items():
        rows = zip(questions, count_hits(scores, questions), strict=True)
        files.write([row_of(question, name, hits) for question, hits in rows])


def require_langbridge(model: PreTrainedModel) -> None:
    """Raises `ValueError` for a model of another package, which has no adapter that is read by words."""
    if model.config.model_type != LangBridgeConfig.model_type:
        raise ValueError(
            f"The task retrieval reads a LangBridge's words, not {model.config.model_type}: leave it out."
        )


def count_hits(fit: Tensor, questions: Sequence[Question]) -> list[dict[str, list[float]]]:
    """For each photo and each recall how many of its queries found what they look for, and of how many."""
    numbers = torch.tensor([len(question.references) for question in questions])
    owner = torch.repeat_interleave(numbers)  # (captions,)
    relevant = owner == torch.arange(len(questions))[:, None]  # (photos, captions)
    found: list[dict[str, list[float]]] = [{} for _ in questions]
    for k in KS:
        by_caption = hits_at(fit.T, relevant.T, k)  # (captions,)
        of_captions = torch.zeros(len(questions)).double().index_add(0, owner, by_caption)
        for photo, hit in enumerate(hits_at(fit, relevant, k).tolist()):
            found[photo][f"image to text, recall@{k}"] = [hit, 1]
            found[photo][f"text to image, recall@{k}"] = [of_captions[photo].item(), numbers[photo].item()]
    return found

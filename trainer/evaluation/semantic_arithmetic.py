# SPDX-License-Identifier: Apache-2.0
"""Semantic arithmetic: photos and words are added and subtracted, as visual tokens or as words, and the sum is read.

VLAP (Park et al., arXiv 2404.09632) shows such results without saying how they are made; the rules here are our own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from modeling_langbridge.vocabulary_head import look_up

from ..data.caption_words import CaptionWords
from .captioning import ask_about_tokens, generate_answers
from .word_scores import (
    pixel_batches,
    pool_photos,
    score_means,
    visual_tokens,
)


NUM_WORDS = 10  # how many words stand for a photo where a caption is made of words
TEXT_WEIGHT = 0.5  # of a text beside a photo: at 1, captions are about the text alone
NOTHING = 1e-6  # what rounding may leave where a photo is subtracted from itself


def add_tokens(photos: Sequence[tuple[int, Tensor]], texts: Sequence[tuple[int, Tensor]] = ()) -> Tensor:
    """
    Adds and subtracts photos patch by patch, and texts to every patch.

    A text is given half the length of the first photo's visual token at each patch: raw visual tokens grow many times
    longer than words, which would have no effect beside them. The sum is divided by how much more is added than
    subtracted, a text counting half, so that two photos give their mean, and a - a + b gives b.

    Args:
        photos (`Sequence[tuple[int, torch.Tensor]]`): 1 or -1, and visual tokens `(tokens, d)`; at least one.
        texts (`Sequence[tuple[int, torch.Tensor]]`, *optional*): 1 or -1, and a direction `(d,)`.

    Returns:
        `torch.Tensor` of shape `(tokens, d)`.

    Raises:
        `ValueError`: the terms cancel, or the photos are of different numbers of visual tokens.
    """
    if len({len(tokens) for _, tokens in photos}) > 1:
        raise ValueError(
            "The photos have different numbers of visual tokens, by their resolution, so that they cannot be added "
            "patch by patch: give photos of one size, or use `words_per_image`."
        )
    lengths = TEXT_WEIGHT * photos[0][1].norm(dim=-1, keepdim=True)  # (tokens, 1)
    total = sum(sign * tokens for sign, tokens in photos)  # (tokens, d)
    total = total + sum(sign * lengths * F.normalize(direction, dim=-1) for sign, direction in texts)
    if total.norm() <= NOTHING * photos[0][1].norm():
        raise ValueError("Nothing is left: what is added and what is subtracted are the same.")
    surplus = sum(sign for sign, _ in photos) + TEXT_WEIGHT * sum(sign for sign, _ in texts)
    return total / max(surplus, 1)


def add_words(terms: Sequence[tuple[int, Tensor]]) -> Tensor:
    """
    Adds and subtracts distributions over the words; what falls below zero is cut off, the rest sums to 1 again.

    Args:
        terms (`Sequence[tuple[int, torch.Tensor]]`): 1 or -1, and a distribution `(V,)`, of a photo or a text.

    Returns:
        `torch.Tensor` of shape `(V,)`.

    Raises:
        `ValueError`: nothing above zero is left.
    """
    total = sum(sign * distribution for sign, distribution in terms).clamp(min=0)  # (V,)
    if total.sum() <= NOTHING:
        raise ValueError("Nothing is left: what is added and what is subtracted are the same.")
    return total / total.sum()


@torch.no_grad()
def read_tokens(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    embeddings: Tensor,
    photos: Sequence[tuple[int, Any]],
    texts: Sequence[tuple[int, str]] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Adds and subtracts on visual tokens, with an adapter of any type.

    Args:
        model ([`LangBridgeForConditionalGeneration`]), processor ([`LangBridgeProcessor`]): a checkpoint's.
        embeddings (`torch.Tensor` of shape `(V, d)`): the language model's, of the words to read the sum in.
        photos (`Sequence[tuple[int, Any]]`):
            1 or -1, and what [`~trainer.data.images.open_image`] opens; at least one.
        texts (`Sequence[tuple[int, str]]`, *optional*): 1 or -1, and any words.

    Returns:
        Of the sum: its cosine with each word, `(V,)`, and its mean, `(d,)`, both in float32 on the CPU; itself, the
        visual tokens `(tokens, d)`.
    """
    batches = pixel_batches(model.model, processor.image_processor, [photo for _, photo in photos])
    tokens = [tokens for pixels in batches for tokens in visual_tokens(model, pixels)]  # photos x (tokens, d)
    total = add_tokens(
        [(sign, one) for (sign, _), one in zip(photos, tokens, strict=True)],
        [(sign, embed_text(model, processor.tokenizer, text)) for sign, text in texts],
    )
    mean = total.float().mean(0).cpu()  # (d,)
    return score_means(mean[None], embeddings)[0], mean, total


@torch.no_grad()
def read_words(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    vocabulary: SharedVocabulary,
    photos: Sequence[tuple[int, Any]],
    texts: Sequence[tuple[int, str]] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Adds and subtracts on words, with an adapter whose coefficients are distributions over the `vocabulary`.

    Args: as for [`read_tokens`].

    Returns:
        The sum, a distribution `(V,)`; its root, since distributions are compared by the cosine of their roots; and
        the embeddings of its strongest words as visual tokens `(tokens, d)`, one a word, the strongest first.
    """
    pooled = pool_photos(model.model, processor.image_processor, [photo for _, photo in photos])  # (photos, V)
    words = CaptionWords(vocabulary)
    total = add_words(
        [(sign, one) for (sign, _), one in zip(photos, pooled, strict=True)]
        + [(sign, text_distribution(words, text)) for sign, text in texts]
    )
    strongest = total.topk(min(NUM_WORDS, int((total > 0).sum()))).indices.to(model.device)
    return total, total.sqrt(), model.model.get_word_embeddings()[strongest]


@torch.no_grad()
def embed_text(model: LangBridgeForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """The mean of the language model's embeddings of a text's tokens, `(d,)`, with a space before the first."""
    # Behind an anchor, since SentencePiece puts a space of its own before what comes first.
    anchor, anchored = (tokenizer(words, add_special_tokens=False)["input_ids"] for words in ("a", f"a {text}"))
    token_ids = torch.tensor(anchored[len(anchor) :], dtype=torch.long, device=model.device)  # (tokens,)
    if not text.strip():
        raise ValueError("A text to add or subtract is empty: give words.")
    return look_up(model.get_input_embeddings(), token_ids).mean(0)


def text_distribution(words: CaptionWords, text: str) -> Tensor:
    """
    A text as a uniform distribution over its words: `(V,)`.

    Raises:
        `ValueError`: the adapter has none of its words.
    """
    found = words.find(text)
    if not found:
        raise ValueError(f"The adapter has no word of {text!r}: give others, or add on visual tokens.")
    distribution = torch.zeros(words.size)  # (V,)
    distribution[found] = 1 / len(found)
    return distribution


@torch.no_grad()
def caption_tokens(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    visual_tokens: Tensor,
    question: str,
    max_new_tokens: int = 30,
) -> str:
    """
    The language model's greedy answer about visual tokens in a photo's place.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): in eval mode.
        processor ([`LangBridgeProcessor`]): the model's.
        visual_tokens (`torch.Tensor` of shape `(tokens, d)`): any number of them.
        question (`str`): asked about them, by the chat template.
        max_new_tokens (`int`, *optional*, defaults to 30): length at which the answer is cut.
    """
    inputs = ask_about_tokens(processor, visual_tokens[None], question)
    [answer] = generate_answers(model, processor.tokenizer, inputs, max_new_tokens)
    return answer

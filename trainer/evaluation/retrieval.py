# SPDX-License-Identifier: Apache-2.0
"""Retrieval through words: which captions belong to a photo and which photo to a caption, without a text encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_processing_utils import BaseImageProcessor

from modeling_langbridge import (
    LangBridgeForConditionalGeneration,
    LangBridgeModel,
    LangBridgeProcessor,
    SharedVocabulary,
)

from ..data.caption_words import CaptionWords
from .word_scores import assign, mean_tokens, pool_photos, score_captions, score_means


KS = (1, 5, 10)


def fit_by_words(
    bridge: LangBridgeModel,
    image_processor: BaseImageProcessor,
    vocabulary: SharedVocabulary,
    images: Sequence[Any],
    captions: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """
    How likely each caption's words are under each photo's pooled coefficients, see [`likelihood_scores`].

    Args:
        bridge ([`LangBridgeModel`]): with coefficients that are distributions.
        image_processor ([`BaseImageProcessor`]): of its vision tower.
        vocabulary ([`SharedVocabulary`]): its words.
        images (`Sequence`): the photos, anything that [`~trainer.data.images.open_image`] opens.
        captions (`Sequence[str]`): the captions.

    Returns:
        `tuple(torch.Tensor, torch.Tensor)`: the fit `(photos, captions)`, and the photos in words `(photos, V)`.
    """
    words = CaptionWords(vocabulary)
    photos = pool_photos(bridge, image_processor, images)
    return likelihood_scores(photos, [words.find(caption) for caption in captions]), photos


def fit_by_states(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    embeddings: Tensor,
    images: Sequence[Any],
    captions: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """
    Photos and captions assigned to words as VLAP does, captions through the language model's states; any adapter.

    Args:
        model ([`LangBridgeForConditionalGeneration`]), processor ([`LangBridgeProcessor`]): a checkpoint.
        embeddings (`torch.Tensor` of shape `(V, d)`): of the words, from
            [`~trainer.evaluation.word_scores.reading_words`].
        images (`Sequence`), captions (`Sequence[str]`): as for [`fit_by_words`].

    Returns: as [`fit_by_words`].
    """
    photos = assign(score_means(mean_tokens(model, processor.image_processor, images), embeddings))
    return cosines(photos, assign(score_captions(model, processor.tokenizer, captions, embeddings))), photos


def likelihood_scores(pooled: Tensor, found: Sequence[list[int]]) -> Tensor:
    """
    How much better a photo explains a caption's words than the photos do on average.

        s_ij = Σ_k∈j u_k (log p_ik - log p̄_k) / √(Σ_k∈j u_k)        p̄: mean of all photos' p,  u_k = -log p̄_k

    The likelihood itself would rank short captions of common words first for every photo; the ratio to p̄ does not.
    Divided by nothing, long captions win where they fit; divided by the number of words, short ones do, whose mean
    varies more: the root, by which a sum of independent terms spreads, is fair to both. Words that tell more, the rare
    ones, weigh more. Since p̄ is of the photos at hand, a score depends on what is searched.

    Args:
        pooled (`torch.Tensor` of shape `(photos, V)`): from [`~trainer.evaluation.word_scores.pool_photos`].
        found (`Sequence[list[int]]`): each caption's words, from [`~trainer.data.caption_words.CaptionWords.find`].

    Returns:
        `torch.Tensor` of shape `(photos, captions)`; 0 for a caption without any of the words.
    """
    tiny = torch.finfo(pooled.dtype).tiny
    log_mean = pooled.mean(0).clamp(min=tiny).log()  # (V,)
    ratios = -log_mean * (pooled.clamp(min=tiny).log() - log_mean)  # (photos, V)
    scores = pooled.new_zeros(len(pooled), len(found))  # (photos, captions)
    for caption, positions in enumerate(found):
        # Where p̄ is 1 a word tells nothing, and its weight is 0.
        weight = -log_mean[positions].sum()
        scores[:, caption] = ratios[:, positions].sum(1) / weight.clamp(min=tiny).sqrt()
    return scores


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Cosines `(n, m)` of assignments to the words, such as those of photos `(n, V)` and captions `(m, V)`."""
    return F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T


def recall_at(scores: Tensor, relevant: Tensor, k: int) -> float:
    """The share of queries with a relevant candidate among the k best: the mean of [`hits_at`]."""
    return hits_at(scores, relevant, k).mean().item()


def hits_at(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """
    Whether each query has a relevant candidate among the k best.

    Candidates of equal score are in random order, and what is returned is the expectation: scores that are all equal
    give chance, not 1.

    Args:
        scores (`torch.Tensor` of shape `(queries, candidates)`): the higher, the better.
        relevant (`torch.Tensor` of shape `(queries, candidates)`): True where the candidate belongs to the query.
        k (`int`): at least 1.

    Returns:
        `torch.Tensor` of shape `(queries,)`, float64 on the CPU: 0 to 1.

    Raises:
        `ValueError`: a score is not finite, or a query has no relevant candidate.
    """
    if not scores.isfinite().all():
        raise ValueError("A score is not finite: look for it in what the scores are made of.")
    if not relevant.any(1).all():
        raise ValueError("A query has no relevant candidate, so it cannot be found.")
    best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)  # (queries, 1)
    places = k - (scores > best).sum(1)  # (queries,) left for those of equal score
    tied = (scores == best).sum(1)
    tied_wrong = ((scores == best) & ~relevant).sum(1)
    missed = torch.ones(len(scores), dtype=torch.float64)
    for place in range(k):
        chance_wrong = (tied_wrong - place).clamp(min=0) / (tied - place).clamp(min=1).double()
        missed = torch.where(place < places.cpu(), missed * chance_wrong.cpu(), missed)
    return 1 - missed


def recall_both_ways(scores: Tensor, owner: Tensor, ks: Sequence[int] = KS) -> dict[str, dict[str, float]]:
    """
    Recall in both directions, and what chance gives.

    Args:
        scores (`torch.Tensor` of shape `(photos, captions)`): the higher, the better they fit.
        owner (`torch.Tensor` of shape `(captions,)`): the photo that each caption was written for.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`): how many of the best count.

    Returns:
        `dict`: by direction (a photo is found by any of its captions), recall by k.
    """
    relevant = owner == torch.arange(len(scores), device=owner.device)[:, None]  # (photos, captions)
    blind = torch.zeros_like(scores)
    return {
        name: {str(k): recall_at(matrix, right, k) for k in ks}
        for name, matrix, right in (
            ("image to text", scores, relevant),
            ("image to text, chance", blind, relevant),
            ("text to image", scores.T, relevant.T),
            ("text to image, chance", blind.T, relevant.T),
        )
    }

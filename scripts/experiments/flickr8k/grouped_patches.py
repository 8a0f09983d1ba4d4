# SPDX-License-Identifier: Apache-2.0
"""
Words of groups of like patches: as few as an image's strongest words, and in reading order they keep their places.

Most patches of a photo say what their neighbours say, faintly. Patches whose coefficients are alike are taken as one,
and a word is as strong as in the group that says it most, not as in the whole photo, so that a small thing is heard.
The words themselves are handed over: language models know words, and no mixtures of them. Nothing is trained.
"""

from collections.abc import Sequence

import torch
from scipy.cluster.hierarchy import fcluster, linkage

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.data.feature_cache import FeatureCache
from trainer.evaluation.word_scores import pixel_batches


ROWS = 3  # of places, in which groups are read from left to right


def group_patches(coefficients: torch.Tensor, distance: float) -> torch.Tensor:
    """
    Agglomerative clusters of patches, by average linkage.

    Args:
        coefficients (`torch.Tensor` of shape `(tokens, V)`): Of one photo, none of them all zeros.
        distance (`float`): One minus the cosine, from 0 to 1, below which groups are joined.

    Returns:
        `torch.Tensor` of shape `(groups, tokens)`, bool: the patches of each group, in reading order of the groups.
    """
    tree = linkage(coefficients.double().cpu().numpy(), "average", metric="cosine")
    labels = torch.from_numpy(fcluster(tree, distance, "distance")).long() - 1  # (tokens,)
    members = torch.nn.functional.one_hot(labels).T.bool()  # (groups, tokens)
    width = round(len(labels) ** 0.5)
    places = torch.stack(
        [torch.arange(len(labels)) // width, torch.arange(len(labels)) % width]
    ).float()  # (2, tokens)
    strengths = members * coefficients.sum(-1).cpu()
    rows, columns = places @ (strengths / strengths.sum(-1, keepdim=True)).T  # (groups,) each
    order = sorted(range(len(members)), key=lambda group: (int(rows[group] * ROWS / width), columns[group].item()))
    return members[order]


def pick_grouped_words(
    coefficients: torch.Tensor, distance: float, count: int, in_reading_order: bool = True
) -> torch.Tensor:
    """
    The words that any group of like patches says most.

    Args:
        coefficients (`torch.Tensor` of shape `(tokens, V)`), distance (`float`): As of [`group_patches`].
        count (`int`): How many words.
        in_reading_order (`bool`, *optional*, defaults to `True`): Whether the words of one group stand together, and
            the groups in reading order; otherwise the strongest word comes first, whichever group says it.

    Returns:
        `torch.Tensor` of shape `(count,)`: different words.
    """
    groups = group_patches(coefficients, distance).to(coefficients)  # (groups, tokens)
    strengths, whose = (groups @ coefficients).max(0)  # (V,) each
    words = strengths.topk(count).indices
    return words[whose[words].argsort(stable=True)] if in_reading_order else words


@torch.no_grad()
def see_grouped_words(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    photos: Sequence[CaptionedPhoto],
    features: FeatureCache,
    distance: float,
    count: int,
    in_reading_order: bool = True,
) -> list[torch.Tensor]:
    """
    The visual tokens of photos: the words of groups of like patches, as embeddings of the language model.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): With coefficients that are distributions, a token per patch.
        processor ([`LangBridgeProcessor`]): Its own.
        photos (`Sequence[CaptionedPhoto]`): Of the features.
        features ([`~trainer.data.feature_cache.FeatureCache`]): Of the tower.
        distance (`float`), count (`int`), in_reading_order (`bool`, *optional*, defaults to `True`):
            As of [`pick_grouped_words`].

    Returns:
        `list[torch.Tensor]`, photos x `(count, d)`.
    """
    bridge = model.model
    embeddings = bridge.get_word_embeddings()  # (V, d)
    batches = pixel_batches(bridge, processor.image_processor, [photo.image for photo in photos], features)
    return [
        embeddings[pick_grouped_words(coefficients, distance, count, in_reading_order)]
        for pixels in batches
        for coefficients in model.get_image_coefficients(**pixels)
    ]

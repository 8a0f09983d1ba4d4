# SPDX-License-Identifier: Apache-2.0
"""
Groups of like patches in place of single ones: fewer visual tokens, each of which means something, and their places.

Most patches of a photo say what their neighbours say. Patches whose coefficients are alike are one thing, which is
handed over once, as the words that it says most: words are what language models know. The groups are in reading order
of their places. No training is needed, and the distance can be chosen anew for each photo.
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


@torch.no_grad()
def group_words(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    photos: Sequence[CaptionedPhoto],
    features: FeatureCache,
    distance: float,
) -> list[torch.Tensor]:
    """
    The visual tokens of photos: the strongest word of each group of like patches, as an embedding of the language
    model.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): With coefficients that are distributions, a token per patch.
        processor ([`LangBridgeProcessor`]): Its own.
        photos (`Sequence[CaptionedPhoto]`): Of the features.
        features ([`~trainer.data.feature_cache.FeatureCache`]): Of the tower.
        distance (`float`): As of [`group_patches`].

    Returns:
        `list[torch.Tensor]`, photos x `(groups, d)`.
    """
    bridge, found = model.model, []
    embeddings = bridge.get_word_embeddings()  # (V, d)
    images = [photo.image for photo in photos]
    for pixels in pixel_batches(bridge, processor.image_processor, images, features):
        for coefficients in model.get_image_coefficients(**pixels):  # (tokens, V)
            groups = group_patches(coefficients, distance).to(coefficients)  # (groups, tokens)
            found.append(embeddings[(groups @ coefficients).argmax(-1)])
    return found

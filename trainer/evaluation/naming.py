# SPDX-License-Identifier: Apache-2.0
"""Naming: do the words of the patches that an object covers name it, in pictures where its place is known?"""

from collections.abc import Sequence

import torch
from torch import Tensor


MEASURES = ("top 1", "top 5", "own over other")


def count_named(coefficients: Tensor, owner: Tensor, names: Tensor) -> Tensor:
    """
    Counts the patches of a picture's objects whose words name them.

    Args:
        coefficients (`torch.Tensor` of shape `(patches, V)`): Each patch's, ranked by magnitude.
        owner (`torch.Tensor` of shape `(patches,)`): The object of each patch, -1 where there is none.
        names (`torch.Tensor` of shape `(objects, V)`): True where a word names the object.

    Returns:
        `torch.Tensor` of shape `(4,)`: how many patches with an object have one of its names as their strongest word,
        among their five strongest, and larger coefficients of its names than of the other objects' (half where they
        are the same), and how many patches with an object there are.
    """
    magnitudes, owner = coefficients.abs()[owner >= 0], owner[owner >= 0]
    own = names[owner]  # (patches, V)
    others = names.any(0) & ~own
    strongest = magnitudes.topk(5).indices  # (patches, 5)
    hits = own.gather(1, strongest)
    for_own, for_others = ((magnitudes * words).sum(1) for words in (own, others))
    wins = (for_own > for_others).double() + 0.5 * (for_own == for_others)
    return torch.stack([hits[:, 0].sum(), hits.any(1).sum(), wins.sum(), torch.tensor(len(owner))]).double()


def name_objects(
    coefficients: Tensor,
    of_noise: Tensor,
    coverage: Tensor,
    names: Tensor,
    generator: torch.Generator,
    min_coverage: float = 0.25,
) -> dict[str, Tensor]:
    """
    Counts the patches of a picture whose words name an object, and the same for controls.

    The controls: patches that no object covers at all, each compared with every object; the object's patches with the
    words of random patches of the same picture; and the object's patches with the words of random features.

    Args:
        coefficients (`torch.Tensor` of shape `(patches, V)`): Each patch's.
        of_noise (`torch.Tensor` of shape `(patches, V)`): The adapter's, of random features as long as the patches'.
        coverage (`torch.Tensor` of shape `(objects, patches)`): The share of each patch that an object covers.
        names (`torch.Tensor` of shape `(objects, V)`): True where a word names the object.
        generator (`torch.Generator`): Of the random patches.
        min_coverage (`float`, *optional*, defaults to 0.25): The coverage from which on a patch is the object's.

    Returns:
        `dict[str, torch.Tensor]`: by row, what [`count_named`] returns.
    """
    largest, owner = coverage.max(0)
    owner = owner.where(largest >= min_coverage, -1)
    outside = largest == 0
    elsewhere = [torch.where(outside, number, -1) for number in range(len(coverage))]
    shuffled = torch.randperm(len(coefficients), generator=generator)
    return {
        "patches of the object": count_named(coefficients, owner, names),
        "patches outside": sum(count_named(coefficients, one, names) for one in elsewhere),
        "shuffled patches": count_named(coefficients[shuffled], owner, names),
        "random features of the same norm": count_named(of_noise, owner, names),
    }


def make_noise(features: Tensor, generator: torch.Generator) -> Tensor:
    """Random features in random directions, each as long as one of `features` `(..., d_v)`."""
    noise = torch.randn(features.shape, generator=generator).to(features)
    return noise * features.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)


def mark_words(words: Sequence[str], surfaces: Sequence[str]) -> Tensor:
    """Which surfaces `(V,)` of a vocabulary are one of these words."""
    return torch.tensor([surface.strip() in words for surface in surfaces])

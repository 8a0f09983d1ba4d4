# SPDX-License-Identifier: Apache-2.0
"""What can be known of a swap before anything is captioned: `transfer.py`'s diagnosis, and how far apart the two
language models' words are."""

from collections.abc import Sequence

import ot
import torch
from torch.nn import functional as F

from experiments.matrix.forms import Parts, join_form
from experiments.matrix.world import MatrixWorld
from modeling_langbridge.adapter.transfer_diagnosis import diagnose_transfer
from trainer.data.captioned_photos import CaptionedPhoto


# Of a diagnosis, what may foretell how good a swap is, and what it is called in the table.
NUMBERS = {
    "map_r2": "R² of the words' map, held out",
    "null_share": "null-space share",
    "token_length": "length of a visual token",
    "few_words": "share of the 8 largest coefficients",
    "told_apart": "bits",
    "gromov_wasserstein": "Gromov-Wasserstein distance",
}


@torch.no_grad()
def foretell(
    world: MatrixWorld,
    form: str,
    source: str | None,
    seed: int,
    new: Parts,
    photos: Sequence[CaptionedPhoto],
) -> dict[str, float | None]:
    """
    The numbers of `NUMBERS` of a swap; those that compare two language models are `None` where there is no source.

    Args:
        form (`str`), source (`str`, *optional*), seed (`int`): Of the adapter.
        new (`Parts`): The adapter on the target.
        photos (`Sequence[CaptionedPhoto]`): The first of them are what the adapter is measured on.
    """
    cache = world.features(*new)
    few = photos[: world.sizes.prognosis_photos]
    features = [cache.read(photo.image).float() for photo in few]  # photos x (tokens, d_v)
    old = None if source is None else join_form(world, form, source, source, seed)[0]
    diagnosis = diagnose_transfer(old, new[0], features)
    numbers = {name: getattr(diagnosis, name) for name in NUMBERS if name != "gromov_wasserstein"}
    if old is None:
        return {**numbers, "gromov_wasserstein": None}
    coefficients = new[0].get_image_coefficients(torch.stack(features))  # (photos, tokens, V)
    weights, words = coefficients.abs().float().mean((0, 1)).topk(world.sizes.gromov_words)
    spaces = [model.model.get_word_embeddings().float()[words] for model in (old, new[0])]
    return {**numbers, "gromov_wasserstein": word_distance(*spaces, weights)}


def word_distance(old: torch.Tensor, new: torch.Tensor, weights: torch.Tensor) -> float:
    """
    The Gromov-Wasserstein distance between the same words in two language models, from each word moved to itself.

    It compares, within each space, how far apart the words are by their cosine: 0 where these are the same, whatever
    the two widths.

    Args:
        old (`torch.Tensor` of shape `(words, d)`), new (`torch.Tensor` of shape `(words, d')`): Their embeddings.
        weights (`torch.Tensor` of shape `(words,)`): How much an adapter uses each of them.

    Source: Mémoli, "Gromov-Wasserstein distances and the metric approach to object matching", 2011; POT's solver.
    """
    distances = [(1 - unit @ unit.T).double().numpy() for unit in (F.normalize(old), F.normalize(new))]
    mass = (weights / weights.sum()).double().numpy()
    mass = mass / mass.sum()
    return float(ot.gromov.gromov_wasserstein2(*distances, mass, mass, G0=torch.from_numpy(mass).diag().numpy()))

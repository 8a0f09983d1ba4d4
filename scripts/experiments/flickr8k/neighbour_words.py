# SPDX-License-Identifier: Apache-2.0
"""The words of a photo's nearest train photos: a baseline that learns nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.flickr8k.photo_world import fill_features
from experiments.flickr8k.pretrained_world import PretrainedWorld
from trainer.data.caption_words import CaptionWords
from trainer.data.captioned_photos import CaptionedPhoto


NEIGHBOURS, TEMPERATURE = 50, 0.1  # of the cosines between features, chosen on the dev photos


def find_neighbour_words(world: PretrainedWorld, folder: Path) -> None:
    """Words of dev and test photos, and of the examples, by their nearest train photos."""
    train = world.photos("train")
    asked = [*train[: world.sizes.examples], *world.photos("dev"), *world.photos("test")]
    known, features = compute_means(world, train, asked)
    similarity = features @ known.T  # (photos, train photos)
    similarity[: world.sizes.examples].fill_diagonal_(-1)  # an example is not its own neighbour
    words = CaptionWords(world.vocabulary)
    uses = torch.stack([words.count(photo.captions) for photo in train])  # (train photos, V)
    closeness, nearest = similarity.topk(min(NEIGHBOURS, len(train) - 1))
    weights = (closeness / TEMPERATURE).softmax(-1)  # (photos, neighbours)
    scores = torch.stack([weight @ uses[rows] for weight, rows in zip(weights, nearest, strict=True)])  # (photos, V)
    surfaces = world.vocabulary.surfaces
    found = {
        photo.name: [surfaces[word].strip() for word in strongest]
        for photo, strongest in zip(asked, scores.topk(10).indices.tolist(), strict=True)
    }
    (folder / "words.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def compute_means(
    world: PretrainedWorld, train: Sequence[CaptionedPhoto], asked: Sequence[CaptionedPhoto]
) -> tuple[Tensor, Tensor]:
    """Mean features of train photos and of others, in units of their spread and of length 1, `(photos, d_v)` each."""
    cache = fill_features(world)
    means = torch.stack([cache.read(photo.image).float().mean(0) for photo in (*train, *asked)])  # (photos, d_v)
    known = means[: len(train)]
    means = F.normalize((means - known.mean(0)) / known.std(0))
    return means[: len(train)], means[len(train) :]

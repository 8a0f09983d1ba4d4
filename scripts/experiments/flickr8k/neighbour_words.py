# SPDX-License-Identifier: Apache-2.0
"""The words of a photo's nearest train photos: a baseline that learns nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModel

from experiments.flickr8k.pretrained_world import PretrainedWorld
from trainer.data.caption_words import CaptionWords
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.data.images import open_image


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
    cache = world.features(AutoModel.from_pretrained(world.tower, dtype=torch.float32))
    processor = AutoImageProcessor.from_pretrained(world.tower)
    photos, means = [*train, *asked], []
    for start in tqdm(range(0, len(photos), 16), desc="mean features, 16 photos a step"):
        images = [open_image(photo.image) for photo in photos[start : start + 16]]
        pixel_values = processor(images, return_tensors="pt")["pixel_values"]
        means.append(cache(pixel_values).last_hidden_state.flatten(2).mean(2))  # (photos, d_v)
    means = torch.cat(means)
    known = means[: len(train)]
    means = F.normalize((means - known.mean(0)) / known.std(0))
    return means[: len(train)], means[len(train) :]

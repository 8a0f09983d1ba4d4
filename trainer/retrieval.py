# SPDX-License-Identifier: Apache-2.0
"""Retrieval through words: which captions belong to a photo and which photo to a caption, without a text encoder."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .data import as_rows, load_training_data
from .json_rows import read_json_rows
from .samples import SampleError, in_folder, path_of, read_sample, split_captions
from .word_assignment import caption_of


@dataclass(frozen=True)
class CaptionedPhoto:
    """
    A photo with all its captions.

    Args:
        name (`str`): the file's name, or the sample's where the image lies in the dataset.
        image: what [`~trainer.images.open_image`] opens.
        captions (`list[str]`): at least one.
    """

    name: str
    image: Any
    captions: list[str]


def read_captioned_photos(path: str, image_folder: str | None = None, split: str = "test") -> list[CaptionedPhoto]:
    """
    Reads photos with captions; rows of the same image are one photo with several captions.

    Args:
        path (`str`): as for [`~trainer.data.load_training_data`], with one image a row.
        image_folder (`str`, *optional*):
            What a json's image paths are relative to: its own folder, or `images` in it, where not given.
        split (`str`, *optional*, defaults to `"test"`):
            The rows of a json whose field `split` says so, all where no row has one; or a dataset's split.

    Raises:
        `ValueError`: names the row and what is wrong with it, or that there is no photo in this split.
    """
    captioned: dict[Any, CaptionedPhoto] = {}
    for sample in read_samples_of_split(path, image_folder, split):
        if len(sample["images"]) != 1:
            raise ValueError(
                f"Sample {sample['id']} in {path} has {len(sample['images'])} images: retrieval takes one a row."
            )
        image = sample["images"][0]
        content = image.get("bytes") if isinstance(image, dict) else None
        key = hashlib.blake2b(content).digest() if content else path_of(image)
        name = Path(path_of(image)).name if path_of(image) else sample["id"]
        captioned.setdefault(key, CaptionedPhoto(name, image, [])).captions.append(caption_of(sample))
    return list(captioned.values())


def read_samples_of_split(path: str, image_folder: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Rows in the one form of [`~trainer.samples.read_sample`]; a json is read here, since its splits are fields."""
    if Path(path).suffix not in (".json", ".jsonl"):
        yield from map(read_sample, as_rows(load_training_data(path, image_folder, split)))
        return
    splits: set[str] = set()
    found = False
    for line, row in read_json_rows(Path(path)):
        try:
            if isinstance(row, SampleError):
                raise row
            splits.add(str(row.get("split", split)))
            if row.get("split", split) != split:
                continue
            for caption in split_captions(row):
                sample = read_sample(caption)
                if image_folder is None and sample["images"]:
                    image_folder = folder_of_images(Path(path).parent, sample["images"][0])
                sample["images"] = [in_folder(image, image_folder) for image in sample["images"]]
                found = True
                yield sample
        except SampleError as error:
            raise ValueError(f"{path}, line {line}: {error}.") from error
    if not found:
        others = f", only in {', '.join(sorted(splits))}: name one as `split`" if splits else ""
        raise ValueError(f"{path} has no sample in split {split!r}{others}.")


def folder_of_images(folder: Path, image: Any) -> str:
    """Where a json's images lie: in its own folder, or in `images` beside it, by where the first one is."""
    beside = folder / "images"
    name = path_of(image)
    return str(beside if name and not (folder / name).exists() and (beside / name).exists() else folder)


def likelihood_scores(pooled: Tensor, found: Sequence[list[int]]) -> Tensor:
    """
    How much better a photo explains a caption's words than the photos do on average.

        s_ij = Σ_k∈j u_k (log p_ik - log p̄_k) / √(Σ_k∈j u_k)        p̄: mean of all photos' p,  u_k = -log p̄_k

    The likelihood itself would rank short captions of common words first for every photo; the ratio to p̄ does not.
    Divided by nothing, long captions win where they fit; divided by the number of words, short ones do, whose mean
    varies more: the root, by which a sum of independent terms spreads, is fair to both. Words that tell more, the rare
    ones, weigh more. Since p̄ is of the photos at hand, a score depends on what is searched.

    Args:
        pooled (`torch.Tensor` of shape `(photos, V)`): from [`~trainer.photo_words.pool_photos`].
        found (`Sequence[list[int]]`): each caption's words, from [`~trainer.word_assignment.CaptionWords.find`].

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
    """
    The share of queries with a relevant candidate among the k best.

    Candidates of equal score are in random order, and what is returned is the expectation: scores that are all equal
    give chance, not 1.

    Args:
        scores (`torch.Tensor` of shape `(queries, candidates)`): the higher, the better.
        relevant (`torch.Tensor` of shape `(queries, candidates)`): True where the candidate belongs to the query.
        k (`int`): at least 1.

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
    return (1 - missed).mean().item()


def recall_both_ways(scores: Tensor, owner: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, dict[str, float]]:
    """
    Recall in both directions, and what chance gives.

    Args:
        scores (`torch.Tensor` of shape `(photos, captions)`): the higher, the better they fit.
        owner (`torch.Tensor` of shape `(captions,)`): the photo that each caption was written for.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`): how many of the best are looked at.

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

# SPDX-License-Identifier: Apache-2.0
"""Tables that say how far the words of an explanation can be believed: substitution, and precision in captions."""

from collections.abc import Sequence

import torch

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary

from ..data.caption_words import CaptionWords
from ..data.captioned_photos import CaptionedPhoto
from .faithfulness import OTHER, OWN, SHOWN, Substitution
from .intervals import estimate
from .word_scores import count_right_words, find_used_words, photo_strengths


PRECISIONS = (5, 10)


def substitution_table(found: Substitution) -> str:
    """A row for what is handed over, a column for each number of words: the divergence per token in nats, with the
    interval in brackets. Of the controls, the interval is that of their difference from the row above."""
    columns = [*map(str, found.numbers[:-1]), f"all {found.numbers[-1]:,}"]
    lines = [f"| handed to the language model | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row, above in zip(SHOWN, (None, *SHOWN), strict=False):
        cells = []
        for number in found.numbers:
            divergence = found.divergence(row, number)
            more = None if above is None else found.excess(row, above, number)
            cells.append(
                str(divergence) if more is None else f"{divergence.value:.3f} [{more.low:+.3f}, {more.high:+.3f}]"
            )
        lines.append(f"| {row} | {' | '.join(cells)} |")
    empty = "| " * (len(columns) - 1)
    lines.append(f"| {OTHER} {empty}| {found.divergence(OTHER, found.numbers[-1])} |")
    return "\n".join(lines)


def cider_table(found: Substitution, photos: Sequence[CaptionedPhoto]) -> str:
    """The CIDEr of what the model says itself, and how much it changes with what is handed over."""
    from .caption_metrics import caption_scores  # pycocoevalcap is an extra

    references = {photo.name: photo.captions for photo in photos}

    def score(what: str, number: int) -> float:
        return caption_scores(dict(zip(references, found.answers[what, number], strict=True)), references)["CIDEr"]

    own = score(OWN, found.numbers[-1])
    columns = [*map(str, found.numbers[:-1]), f"all {found.numbers[-1]:,}"]
    lines = [f"| change of CIDEr from {own:.3f} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row in SHOWN:
        lines.append(f"| {row} | {' | '.join(f'{score(row, number) - own:+.3f}' for number in found.numbers)} |")
    return "\n".join(lines)


def precision_table(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    photos: Sequence[CaptionedPhoto],
) -> str:
    """The share of a photo's strongest words that its human captions use, beside that of the words which most captions
    of these photos use."""
    bridge = model.model
    words = CaptionWords(SharedVocabulary.from_token_ids(processor.tokenizer, bridge.get_word_ids()))
    used = find_used_words(words, [photo.captions for photo in photos])  # (photos, V)
    uses = words.count(caption for photo in photos for caption in photo.captions)  # (V,)
    strengths = photo_strengths(bridge, processor.image_processor, [photo.image for photo in photos])
    numbers = [number for number in PRECISIONS if number <= words.size]
    lines = [f"| of the strongest words | {' | '.join(map(str, numbers))} |", "|---|" + "---:|" * len(numbers)]
    for row, ranks in (("a photo's own", strengths), ("most frequent in captions", uses.expand_as(strengths))):
        right = {number: count_right_words(ranks, used, number) for number in numbers}
        cells = [str(estimate(hits, torch.full((len(photos),), number))) for number, hits in right.items()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)

# SPDX-License-Identifier: Apache-2.0
"""The first stage: which words are shared, and which sentences are spoken in which voice."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import AutoTokenizer

from experiments.ears.speech import Voice, draw_voice
from experiments.ears.words import share_words, spoken_words
from experiments.ears.world import VOICES, EarsWorld
from experiments.flickr8k.caption_corpora import read_caption_text, read_flickr8k
from modeling_langbridge.utils.files import read_json


FEWEST_WORDS, MOST_WORDS = 5, 16
RANKED = 40_000  # captions, enough to rank a thousand words


class Utterance(NamedTuple):
    """A sentence, how it is spoken, and what others have written about the same photo, where there is one."""

    sentence: str
    voice: Voice
    others: list[str]


def write_sentences(world: EarsWorld, folder: Path) -> None:
    """The shared words, and the sentences with their voices."""
    sizes, generator = world.sizes, random.Random(0)
    captions = read_caption_text(world.data / "caption_text", seed=0)
    tokenizers = [AutoTokenizer.from_pretrained(part) for part in world.language_models.values()]
    vocabulary = share_words(tokenizers, captions[:RANKED], sizes.shared_words)
    vocabulary.save_pretrained(folder)
    words = [surface.strip() for surface in vocabulary.surfaces]
    half = len(words) // 2
    lists, rare = (
        [" ".join(of_half.sample(some, sizes.words_per_list)) for _ in range(sizes.train_lists)]
        for some, of_half in ((words[:half], generator), (words[half:], random.Random(1)))
    )
    plain = [caption for caption in captions if is_plain(caption)][: sizes.train_captions]
    described = {
        "train": [(sentence, []) for sentence in [*plain, *lists]],
        "dev": describe(world, "dev", sizes.dev_sentences),
        "test": describe(world, "test", sizes.test_sentences),
        "known_voices": describe(world, "test", sizes.known_sentences),
        "examples": describe(world, "train", sizes.examples),
        "rare_words": [(sentence, []) for sentence in rare],
    }
    for split, sentences in described.items():
        rows = [(text, draw_voice(VOICES[split], generator), others) for text, others in sentences]
        (folder / f"{split}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def is_plain(sentence: str) -> bool:
    """Whether a sentence is neither short nor long, and has no digits, which are not spoken as they are written."""
    return FEWEST_WORDS <= len(spoken_words(sentence)) <= MOST_WORDS and not re.search(r"\d", sentence)


def describe(world: EarsWorld, split: str, count: int) -> Sequence[tuple[str, list[str]]]:
    """The first plain sentence of each photo that has one, with the photo's other captions."""
    return list(_describe(world, split))[:count]


def _describe(world: EarsWorld, split: str) -> Iterator[tuple[str, list[str]]]:
    for photo in read_flickr8k(world.data / "flickr8k", split):
        if chosen := next(filter(is_plain, photo.captions), None):
            yield chosen, [caption for caption in photo.captions if caption != chosen]


def read_utterances(world: EarsWorld, split: str) -> list[Utterance]:
    """What is spoken in a split."""
    rows = read_json(world.output_dir / "sentences" / f"{split}.json")
    return [Utterance(sentence, Voice(*voice), others) for sentence, voice, others in rows]

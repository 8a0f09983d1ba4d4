# SPDX-License-Identifier: Apache-2.0
"""What the stages of the ears share: voices, sentences, words, and how large everything is."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from experiments.stages import Stage, make_stage
from modeling_langbridge import SharedVocabulary
from trainer.device import has_bfloat16


TRAIN_VOICES = (
    "en-us+m1 en-us+m3 en-us+m7 en-us+f1 en-us+f2 en-us+f3 en-us+klatt2 en-us+Michael en-gb+m2 en-gb+f5 en-gb+croak "
    "en-gb-x-rp+m4 en-gb-x-rp+f1 en-us-nyc en-gb-scotland+m6 en-gb-x-gbcwmd+f2"
).split()
VOICES = {
    "train": TRAIN_VOICES,
    "rare_words": TRAIN_VOICES,
    "dev": ["en-us+m5", "en-gb-x-rp+f3"],
    "test": ["en-us", "en-us+f4", "en-gb+m8", "en-gb-scotland"],
    "known_voices": TRAIN_VOICES,
    "examples": TRAIN_VOICES,
}


@dataclass(frozen=True)
class EarsSizes:
    """How large everything is and how long it learns."""

    shared_words: int = 2000  # V
    train_captions: int = 3000
    train_lists: int = 1000  # of random words, for each half of the shared words, so that rare ones are heard, too
    words_per_list: int = 10
    dev_sentences: int = 100
    test_sentences: int = 200
    known_sentences: int = 100  # of the test sentences, in voices of the training
    whole_sentences: int = 40  # of the test sentences, for 30 seconds of sound
    read_sentences: int = 60  # of the test sentences, and of the dev sentences, for the first language model
    captioned_sentences: int = 40  # of these, for captions, which take most of the time
    read_by_others: int = 40  # by further language models, which write no captions
    examples: int = 4  # before a sentence
    window: int = 16  # frames of 20 ms that a time step of the adapter reads
    stride: int = 4  # frames from one time step to the next
    projector_hidden_size: int = 512
    feature_dropout: float = 0.2
    steps: int = 800
    batch_size: int = 32
    learning_rate: float = 2e-3


QUICK = EarsSizes(
    shared_words=50,
    train_captions=6,
    train_lists=2,
    words_per_list=4,
    dev_sentences=4,
    test_sentences=8,
    known_sentences=3,
    whole_sentences=3,
    read_sentences=3,
    captioned_sentences=3,
    read_by_others=3,
    examples=1,
    projector_hidden_size=16,
    steps=2,
    batch_size=4,
)


@dataclass(frozen=True)
class EarsWorld:
    """
    A speech encoder, language models, and what is spoken.

    Args:
        data (`Path`): holds `caption_text` and `flickr8k/captions.jsonl`.
        output_dir (`Path`): the folder of the stages' folders.
        sizes ([`EarsSizes`]): of everything.
        encoder (`Path`): the folder of a Whisper.
        language_models (`Mapping[str, Path]`): the folders of language models, by name. The first one is given
            sentences in every form, and writes captions; further ones read fewer sentences in fewer forms.
    """

    bf16: ClassVar = has_bfloat16()

    data: Path
    output_dir: Path
    sizes: EarsSizes
    encoder: Path
    language_models: Mapping[str, Path]

    @property
    def settings(self) -> dict:
        """All that decides the results."""
        names = {"language_models": list(self.language_models), "voices": VOICES}
        return {"sizes": dataclasses.asdict(self.sizes), **names, "bf16": self.bf16}

    def stage(self, function, *arguments) -> Stage:
        return make_stage(function, self, *arguments)

    def is_first(self, language_model: str) -> bool:
        return language_model == next(iter(self.language_models))

    @property
    def vocabulary(self) -> SharedVocabulary:
        return SharedVocabulary.from_pretrained(self.output_dir / "sentences")

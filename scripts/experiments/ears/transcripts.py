# SPDX-License-Identifier: Apache-2.0
"""The words that the trained adapter hears, beside those that were said and those that Whisper writes."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.ears.adapter import compose
from experiments.ears.heard import read_heard
from experiments.ears.listening import listen
from experiments.ears.sentences import read_utterances
from experiments.ears.words import SharedWords
from experiments.ears.world import EarsWorld
from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration
from modeling_langbridge.utils.files import read_json


def load_ear(world: EarsWorld) -> LangBridgeForConditionalGeneration:
    """The trained adapter, without a language model."""
    adapter = LangBridgeAdapter.from_pretrained(world.output_dir / "trained" / "adapter")
    shape = adapter.config
    model, processor = compose(shape.vision_feature_size, adapter.vocabulary, shape.projector_hidden_size)
    adapter.load_onto(model, processor.tokenizer)
    return model


def write_transcripts(world: EarsWorld, folder: Path) -> None:
    """Of each utterance its voice, the shared words that were said, and those that are heard."""
    words, model, sizes = SharedWords(world.vocabulary), load_ear(world), world.sizes

    def hear_words(frames: Sequence[torch.Tensor]) -> list[list[str]]:
        return [[words.words[one.word] for one in heard.words] for heard in listen(model, sizes, frames)]

    def share(sentences: Sequence[str]) -> list[list[str]]:
        return [[words.words[place] for place in words.find(sentence)] for sentence in sentences]

    found = {}
    for split in ("dev", "test", "known_voices"):
        utterances = read_utterances(world, split)
        found[split] = {
            "voices": [utterance.voice.name for utterance in utterances],
            "sentences": [utterance.sentence for utterance in utterances],
            "said": share([utterance.sentence for utterance in utterances]),
            "heard": hear_words(read_heard(world, split)),
        }
    found["test"]["heard_in_30_seconds"] = hear_words(read_heard(world, "whole"))
    found["test"]["whisper"] = share(read_json(world.output_dir / "heard_whole" / "transcripts.json"))
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (folder / "transcripts.json").write_text(text, encoding="utf-8")

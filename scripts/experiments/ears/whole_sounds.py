# SPDX-License-Identifier: Apache-2.0
"""Whisper as it is meant to be used, on 30 seconds whatever is said: its transcripts, and what its encoder hears."""

import json
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from experiments.ears.heard import save_heard
from experiments.ears.hearing import count_frames
from experiments.ears.sentences import read_utterances
from experiments.ears.speech import SAMPLING_RATE, speak
from experiments.ears.world import EarsWorld


@torch.no_grad()
def transcribe(world: EarsWorld, folder: Path) -> None:
    """Whisper's own transcripts of test sentences, and the frames of its encoder on the whole 30 seconds."""
    model = WhisperForConditionalGeneration.from_pretrained(world.encoder).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(world.encoder)
    tokenizer = AutoTokenizer.from_pretrained(world.encoder)
    transcripts, heard = [], []
    for utterance in tqdm(read_utterances(world, "test")[: world.sizes.whole_sentences], desc="whisper"):
        sound = speak(utterance.sentence, utterance.voice)
        mel = extractor(sound, sampling_rate=SAMPLING_RATE, return_tensors="pt").input_features
        states = model.model.encoder(mel)
        ids = model.generate(encoder_outputs=states, return_timestamps=False)
        transcripts.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
        heard.append(states.last_hidden_state[0, : count_frames(sound)].half())  # (frames, d)
    (folder / "transcripts.json").write_text(json.dumps(transcripts, indent=1) + "\n", encoding="utf-8")
    save_heard(heard, folder)

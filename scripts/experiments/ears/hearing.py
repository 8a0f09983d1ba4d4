# SPDX-License-Identifier: Apache-2.0
"""Whisper's encoder on as much sound as there is, and not on 30 seconds whatever there is."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from experiments.ears.speech import SAMPLING_RATE


SAMPLES_PER_FRAME = 320  # 50 frames a second
WHOLE = 50  # frames; sounds are padded with silence to whole seconds, so that several are heard together


def crop_encoder(encoder: WhisperEncoder, frames: int) -> WhisperEncoder:
    """An encoder of the same weights that reads fewer frames: the first of its positions, and no others."""
    config = copy.copy(encoder.config)
    config.max_source_positions = frames
    weights = encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:frames]  # (frames, d)
    with torch.device("meta"):
        cropped = WhisperEncoder(config)
    cropped.load_state_dict(weights, assign=True)
    return cropped.eval()


def count_frames(sound: np.ndarray) -> int:
    return -(-len(sound) // SAMPLES_PER_FRAME)


@torch.no_grad()
def hear(
    encoder: WhisperEncoder,
    feature_extractor: WhisperFeatureExtractor,
    sounds: Sequence[np.ndarray],
    batch_size: int = 16,
) -> list[torch.Tensor]:
    """
    What the encoder makes of sounds.

    Args:
        encoder ([`WhisperEncoder`]): In eval mode.
        feature_extractor ([`WhisperFeatureExtractor`]): The encoder's.
        sounds (`Sequence[np.ndarray]`): Samples `(samples,)` at 16 kHz; what exceeds 30 s is not heard.
        batch_size (`int`, *optional*, defaults to 16): Sounds at a time, of the same length in whole seconds.

    Returns:
        `list[torch.Tensor]`: of each sound its own frames, `(frames, d)`; the silence after it is cut off.
    """
    longest = encoder.config.max_source_positions
    frames = [min(count_frames(sound), longest) for sound in sounds]
    padded = [min(-(-count // WHOLE) * WHOLE, longest) for count in frames]
    heard: list[torch.Tensor] = [torch.empty(0)] * len(sounds)
    for length in sorted(set(padded)):
        cropped = crop_encoder(encoder, length)
        places = [place for place, count in enumerate(padded) if count == length]
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            mel = feature_extractor(
                [sounds[place] for place in batch],
                sampling_rate=SAMPLING_RATE,
                max_length=length * SAMPLES_PER_FRAME,
                return_tensors="pt",
            ).input_features  # (sounds, mel bins, 2 length)
            for place, states in zip(batch, cropped(mel).last_hidden_state, strict=True):  # (length, d)
                heard[place] = states[: frames[place]].clone()
    return heard

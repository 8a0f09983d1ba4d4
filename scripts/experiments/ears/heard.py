# SPDX-License-Identifier: Apache-2.0
"""What the encoder hears of the utterances: frames in half precision, in the place of waveforms."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from tqdm import tqdm
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from experiments.ears.hearing import hear
from experiments.ears.sentences import read_utterances
from experiments.ears.speech import speak
from experiments.ears.world import EarsWorld


AT_ONCE = 400  # utterances whose waveforms are in memory


def hear_split(world: EarsWorld, split: str, folder: Path) -> None:
    """Speaks the sentences of a split, and keeps what the encoder makes of them."""
    encoder = WhisperForConditionalGeneration.from_pretrained(world.encoder).model.encoder.eval()
    extractor = WhisperFeatureExtractor.from_pretrained(world.encoder)
    utterances = read_utterances(world, split)
    heard: list[torch.Tensor] = []
    for start in tqdm(range(0, len(utterances), AT_ONCE), desc=split, unit=f" x {AT_ONCE}"):
        sounds = [speak(one.sentence, one.voice) for one in utterances[start : start + AT_ONCE]]
        heard += [frames.half() for frames in hear(encoder, extractor, sounds)]
    save_heard(heard, folder)


def save_heard(heard: Sequence[torch.Tensor], folder: Path) -> None:
    """Keeps the frames `(frames, d)` of each utterance, for [`read_heard`]."""
    lengths = torch.tensor([len(frames) for frames in heard])
    save_file({"frames": torch.cat(list(heard)), "lengths": lengths}, folder / "heard.safetensors")


def read_heard(world: EarsWorld, split: str) -> Sequence[torch.Tensor]:
    """The frames `(frames, d)` of each utterance of a split, in half precision."""
    content = load_file(world.output_dir / f"heard_{split}" / "heard.safetensors")
    return content["frames"].split(content["lengths"].tolist())


def cut_windows(frames: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """
    The time steps of the adapter, `(steps, window d)`: frames `(frames, d)` with their neighbours, one behind another.
    There is one step for every `stride` frames; zeros stand around the first and the last.
    """
    before = (window - stride) // 2
    steps = -(-len(frames) // stride)
    behind = (steps - 1) * stride + window - before - len(frames)
    padded = F.pad(frames, (0, 0, before, max(behind, 0)))  # (frames and zeros, d)
    return padded.unfold(0, window, stride)[:steps].transpose(1, 2).flatten(1)  # (steps, window d)

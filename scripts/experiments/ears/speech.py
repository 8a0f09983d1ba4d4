# SPDX-License-Identifier: Apache-2.0
"""Sentences spoken by espeak-ng, in voices that differ in accent, timbre, pitch and speed."""

import random
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly


SAMPLING_RATE = 16_000  # of Whisper
ESPEAK_RATE = 22_050
WAV_HEADER = 44  # bytes; espeak-ng writes it to a pipe before it knows the length


class Voice(NamedTuple):
    """How espeak-ng is to speak: an accent with a variant, such as `en-us+f2`, and words a minute."""

    name: str
    pitch: int  # 0 to 99
    speed: int


def check_espeak() -> None:
    """Raises `FileNotFoundError` where there is no espeak-ng: to be called before hours of work."""
    if shutil.which("espeak-ng") is None:
        raise FileNotFoundError("There is no espeak-ng, which speaks the sentences: apt-get install espeak-ng.")


def draw_voice(names: Sequence[str], generator: random.Random) -> Voice:
    """One of the voices, at a pitch and a speed at which people speak."""
    return Voice(generator.choice(names), generator.randint(35, 65), generator.randint(150, 200))


def speak(sentence: str, voice: Voice) -> np.ndarray:
    """The samples of a spoken sentence, `(samples,)` in float32 at 16 kHz, between -1 and 1."""
    options = ["-v", voice.name, "-p", str(voice.pitch), "-s", str(voice.speed), "--stdout", "--stdin"]
    wave = subprocess.run(["espeak-ng", *options], input=sentence.encode(), capture_output=True, check=True).stdout
    samples = np.frombuffer(wave[WAV_HEADER:], dtype="<i2").astype(np.float32) / 2**15
    return resample_poly(samples, SAMPLING_RATE, ESPEAK_RATE).astype(np.float32)

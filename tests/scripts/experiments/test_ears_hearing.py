# SPDX-License-Identifier: Apache-2.0
"""What a speech encoder hears: of the sound alone as of 30 seconds, sound by sound, and in windows of its frames."""

import shutil

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from experiments.ears.heard import cut_windows
from experiments.ears.hearing import SAMPLES_PER_FRAME, crop_encoder, hear
from experiments.ears.speech import SAMPLING_RATE, Voice, speak


@pytest.fixture(scope="module")
def encoder() -> WhisperEncoder:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=80,
        max_source_positions=200,
        vocab_size=60,
        decoder_layers=1,
        pad_token_id=0,
        init_std=0.2,
    )
    return WhisperEncoder(config).eval()


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=int(seconds * SAMPLING_RATE)).astype(np.float32) / 10


@torch.no_grad()
def test_a_cropped_encoder_is_the_whole_one_on_as_many_frames(encoder):
    mel = torch.randn(2, 80, 400)
    assert torch.equal(crop_encoder(encoder, 200)(mel).last_hidden_state, encoder(mel).last_hidden_state)
    # Without attention, frames see no others but their neighbours: all but the last are the same.
    for layer in encoder.layers:
        layer.self_attn.out_proj.weight.data.zero_()
    whole = encoder(mel).last_hidden_state[:, :70]
    cropped = crop_encoder(encoder, 70)(mel[..., :140]).last_hidden_state
    torch.testing.assert_close(cropped[:, :-1], whole[:, :-1])
    assert encoder.config.max_source_positions == 200 and encoder.embed_positions.num_embeddings == 200


def test_what_is_heard_of_a_sound_does_not_hang_on_its_neighbours_and_ends_with_it(encoder):
    extractor = WhisperFeatureExtractor()
    sounds = [noise(0.31, 1), noise(1.5, 2), noise(0.9, 3), noise(0.95, 4)]
    together = hear(encoder, extractor, sounds, batch_size=2)
    assert [len(frames) for frames in together] == [16, 75, 45, 48]
    for sound, frames in zip(sounds, together, strict=True):
        torch.testing.assert_close(hear(encoder, extractor, [sound])[0], frames)


def test_what_exceeds_the_encoder_is_not_heard(encoder):
    (frames,) = hear(encoder, WhisperFeatureExtractor(), [noise(5)])
    assert len(frames) == 200


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (4, 4), (5, 2), (6, 3)])
@pytest.mark.parametrize("count", [1, 7, 8, 21])
def test_a_time_step_is_its_frames_with_their_neighbours(window, stride, count):
    frames = torch.randn(count, 3)
    steps = cut_windows(frames, window, stride)
    before = (window - stride) // 2
    expected = []
    for start in range(0, count, stride):
        places = range(start - before, start - before + window)
        expected.append(torch.cat([frames[place] if 0 <= place < count else torch.zeros(3) for place in places]))
    assert torch.equal(steps, torch.stack(expected))


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="there is no espeak-ng")
def test_sentences_are_spoken_at_the_rate_that_the_encoder_reads():
    slow, fast = (speak("a dog runs on the grass", Voice("en-us", 50, speed)) for speed in (120, 240))
    assert slow.dtype == np.float32 and 0.1 < np.abs(slow).max() <= 1
    assert 1.2 < len(slow) / SAMPLING_RATE < 4  # six words at two words a second
    assert len(fast) < 0.7 * len(slow)
    assert not np.array_equal(slow[:SAMPLES_PER_FRAME], speak("a dog", Voice("en-us+f4", 50, 120))[:SAMPLES_PER_FRAME])

# SPDX-License-Identifier: Apache-2.0
"""A video as a timed list of words: those of each frame, with frames that say the same joined."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from ..video_opening import Frame
from .patch_words import NamedNumbers, strongest_words


LISTED = 3  # words of a part


@dataclass(frozen=True)
class Part:
    """A part of a video, whose frames have the same strongest words.

    Args:
        start (`float`): In seconds from the first frame.
        end (`float`): In seconds, where the next part begins.
        words (`list[tuple[str, float]]`): With their shares, the means over its frames, the strongest first.
    """

    start: float
    end: float
    words: NamedNumbers

    def __str__(self) -> str:
        return f"{self.start:.1f}–{self.end:.1f} s: {', '.join(word for word, _ in self.words)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with times of three decimals and shares of four digits."""
        words = [{"word": word, "share": float(f"{share:.4g}")} for word, share in self.words]
        return {"start": round(self.start, 3), "end": round(self.end, 3), "words": words}


def read_clip(
    model: PreTrainedModel, processor: ProcessorMixin, frames: Sequence[Frame], listed: int = LISTED
) -> list[Part]:
    """
    Reads the words of a video with a model, one frame at a time.

    Args:
        model (`LangBridgeForConditionalGeneration` or `LangBridgeNextForConditionalGeneration`):
            With an adapter made of words.
        processor (`LangBridgeProcessor`): The model's.
        frames (`Sequence[Frame]`): As `processor.open_video` gives them.
        listed (`int`, *optional*, defaults to 3): Number of words per part, at most 10.

    Returns:
        `list[Part]`, in the order of time.

    Raises:
        `ValueError`: the adapter (mlp, linear) is not made of words.
    """
    return join_frames(frames, [strongest_words(model, processor, frame.image).photo for frame in frames], listed)


def join_frames(frames: Sequence[Frame], words: Sequence[NamedNumbers], listed: int = LISTED) -> list[Part]:
    """The parts of a video of frames with these words, of which the first `listed` count, in any order."""
    runs: list[list[tuple[Frame, dict[str, float]]]] = []
    for frame, strongest in zip(frames, words, strict=True):
        named = dict(strongest[:listed])
        if runs and runs[-1][-1][1].keys() == named.keys():
            runs[-1].append((frame, named))
        else:
            runs.append([(frame, named)])
    parts = []
    for run in runs:
        means = {word: sum(named[word] for _, named in run) / len(run) for word in run[0][1]}
        ranked = sorted(means.items(), key=lambda pair: pair[1], reverse=True)
        parts.append(Part(run[0][0].start, run[-1][0].end, ranked))
    return parts


def count_tokens(processor: ProcessorMixin, frames: Sequence[Frame]) -> list[int]:
    """How many visual tokens each frame becomes, before a model runs."""
    sizes = [(frame.image.height, frame.image.width) for frame in frames]
    return processor._get_num_multimodal_tokens(sizes).num_image_tokens

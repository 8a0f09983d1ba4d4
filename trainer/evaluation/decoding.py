# SPDX-License-Identifier: Apache-2.0
"""How answers are written: greedily, by beams, and closer to the images than a language model does by itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from .guidance import guide
from .word_bias import bias_words


@dataclass(frozen=True)
class Decoding:
    """
    How answers are written; by default greedily.

    Args:
        guidance_scale (`float`, *optional*): Of [`~guidance.guide`], away from what is said without the images.
        word_bias (`float`, *optional*): Of [`~word_bias.bias_words`], towards the words of the images.
        num_beams (`int`, *optional*): Of beam search, which transformers does not guide.
    """

    guidance_scale: float | None = None
    word_bias: float | None = None
    num_beams: int | None = None

    def __post_init__(self):
        if self.guidance_scale is not None and self.num_beams is not None:
            raise ValueError("`guidance_scale` is for greedy answers: leave it out, or `num_beams`.")

    @property
    def without_images(self) -> "Decoding":
        """The same for questions that have no images to keep to."""
        return replace(self, guidance_scale=None, word_bias=None)

    def generate_kwargs(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        conversations: Sequence[Sequence[dict[str, Any]]],
        inputs: BatchFeature,
    ) -> dict[str, Any]:
        """
        Arguments of `generate`.

        Args:
            model, processor, conversations, inputs: As of [`~word_bias.bias_words`].
        """
        arguments: dict[str, Any] = {} if self.num_beams is None else {"num_beams": self.num_beams}
        if self.guidance_scale is not None:
            arguments |= guide(model, processor, conversations, self.guidance_scale)
        if self.word_bias is not None:
            arguments |= bias_words(model, processor, conversations, inputs, self.word_bias)
        return arguments

    def __str__(self) -> str:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return ", ".join(f"{name} {value:g}" for name, value in given.items())


GREEDY = Decoding()

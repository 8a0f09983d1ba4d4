# SPDX-License-Identifier: Apache-2.0
"""What keeps answers closer to the images than a language model does by itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from .guidance import guide
from .word_bias import bias_words


@dataclass(frozen=True)
class Steering:
    """
    How an answer is steered; by default not at all.

    Args:
        guidance_scale (`float`, *optional*): Of [`~guidance.guide`], away from what is said without the images.
        word_bias (`float`, *optional*): Of [`~word_bias.bias_words`], towards the words of the images.
    """

    guidance_scale: float | None = None
    word_bias: float | None = None

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
        arguments = {}
        if self.guidance_scale is not None:
            arguments |= guide(model, processor, conversations, self.guidance_scale)
        if self.word_bias is not None:
            arguments |= bias_words(model, processor, conversations, inputs, self.word_bias)
        return arguments

    def __str__(self) -> str:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return ", ".join(f"{name} {value:g}" for name, value in given.items())

# SPDX-License-Identifier: Apache-2.0
"""Captions of photos by a language model that was never trained for it: a few examples show how words become one."""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin


# The lists are as the adapter gives them: the strongest word first, and not all of them right.
EXAMPLES = (
    ("dog brown running grass dogs", "A brown dog runs through the grass."),
    ("girl little young pink child", "A little girl in a pink dress smiles."),
    ("man wearing black street people", "A man in black clothes walks down a street."),
    ("two people snow mountain standing", "Two people stand on a snowy mountain."),
    ("boy water pool swimming jumping", "A boy jumps into a swimming pool."),
    ("woman sitting bench young hat", "A young woman with a hat sits on a bench."),
)
WORDS_PER_IMAGE = 5
BATCH_SIZE = 10
NUM_BEAMS = 3


def build_prompt(image_token: str) -> str:
    """The examples, then the image in place of the words, and a caption to be written."""
    shown = "".join(f"Words: {words}\nCaption: {caption}\n\n" for words, caption in EXAMPLES)
    return f"{shown}Words:{image_token}\nCaption:"


@torch.no_grad()
def write_captions(model: PreTrainedModel, processor: ProcessorMixin, photos: Sequence[Image.Image]) -> list[str]:
    """
    A caption of each photo by a small beam search, which ends with the line.

    Args:
        model (`LangBridgeForConditionalGeneration`): With `words_per_image`.
        processor (`LangBridgeProcessor`): Its own.
        photos (`Sequence[PIL.Image.Image]`): In RGB.
    """
    captions: list[str] = []
    for start in range(0, len(photos), BATCH_SIZE):
        images = list(photos[start : start + BATCH_SIZE])
        prompts = [build_prompt(processor.image_token)] * len(images)
        inputs = processor(images=images, text=prompts, return_tensors="pt")
        output = model.generate(
            **inputs,
            do_sample=False,
            num_beams=NUM_BEAMS,
            max_new_tokens=24,
            stop_strings=["\n"],
            tokenizer=processor.tokenizer,
        )
        written = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        captions += [text.strip() for text in written]
    return captions

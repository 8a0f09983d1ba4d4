# SPDX-License-Identifier: Apache-2.0
"""A vision tower and an adapter that put images into words, one image at a time, each content once."""

import hashlib
from collections import OrderedDict
from io import BytesIO
from weakref import WeakValueDictionary

import anyio
import torch
from PIL import Image

from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.image_opening import FORMATS, ImageError
from modeling_langbridge.reading.patch_words import (
    find_grid,
    lay_on_grid,
    load_pixels,
    name_words,
    strongest_of_photo,
)
from modeling_langbridge.reading.word_places import place_words

from .wording import list_words


KEPT = 10_000  # images whose words are remembered, some 200 bytes each


def open_eyes(
    adapter: str, vision_tower: str, num_words: int
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    An adapter with its vision tower, on the GPU where there is one, without any language model.

    Raises:
        `ValueError`: one is something else, they do not fit, or the adapter's words say nothing.
    """
    loaded = LangBridgeAdapter.from_pretrained(adapter)
    if loaded.config.coefficient_activation == "linear":
        raise ValueError(
            f"--adapter {adapter} has raw coefficients, which do not read as words: give one that was grounded "
            "(docs/grounding.md)."
        )
    if not 1 <= num_words <= len(loaded.vocabulary):
        raise ValueError(f"--words is {num_words}, but must be from 1 to the adapter's {len(loaded.vocabulary):,}.")
    model, processor = loaded.join(vision_tower, words_per_image=num_words)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), processor


class Eyes:
    """
    Puts images into words, and remembers them by the images' content.

    Decoding, tower and adapter run in a thread, for one image at a time, with all of torch's threads: so many images
    at once take no more memory than one.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): From [`open_eyes`].
        processor ([`LangBridgeProcessor`]): The model's.
        sure (`float`): The share of the coefficients below which a word is marked as uncertain.
        max_pixels (`int`): How many pixels an image may have.
    """

    def __init__(
        self,
        model: LangBridgeForConditionalGeneration,
        processor: LangBridgeProcessor,
        sure: float,
        max_pixels: int,
    ):
        self.model, self.processor, self.sure, self.max_pixels = model, processor, sure, max_pixels
        self.names = name_words(processor.tokenizer, model.model.get_word_ids())
        self.known: OrderedDict[bytes, str] = OrderedDict()
        self.locks: WeakValueDictionary[bytes, anyio.Lock] = WeakValueDictionary()
        self.one_image = anyio.CapacityLimiter(1)

    async def read(self, content: bytes) -> str:
        """
        The words of an image, as [`~serving.wording.list_words`] lists them.

        Args:
            content (`bytes`): An image file.

        Raises:
            [`ImageError`]: it cannot be opened.
        """
        key = hashlib.sha256(content).digest()
        # Several requests with one new image: the first looks at it, the others wait.
        async with self.locks.setdefault(key, anyio.Lock()):
            if key not in self.known:
                self.known[key] = await anyio.to_thread.run_sync(self.look, content, limiter=self.one_image)
                if len(self.known) > KEPT:
                    self.known.popitem(last=False)
            self.known.move_to_end(key)
            return self.known[key]

    def look(self, content: bytes) -> str:
        """[`~Eyes.read`] without a memory, in the thread that calls."""
        try:
            with Image.open(BytesIO(content), formats=FORMATS) as header:
                width, height = header.size
        except Exception:  # whatever is wrong with it, opening it whole says so
            width = height = 0
        if width * height > self.max_pixels:
            raise ImageError(
                "oversized image",
                f"an image has {width} x {height} pixels, and may have {self.max_pixels:,}: send a smaller copy",
            )
        inputs = load_pixels(self.model, self.processor, self.processor.open_image(content))
        try:
            grid, _ = find_grid(self.processor, inputs)
        except ValueError as error:
            raise ImageError("undecodable image", str(error)) from error
        with torch.no_grad():
            coefficients = self.model.get_image_coefficients(**inputs)[0].float().cpu()  # (tokens, V)
        if not coefficients.isfinite().all():
            raise ImageError("undecodable image", "an image gives values that are not finite: send another copy of it")
        words = strongest_of_photo(coefficients, self.names, self.model.config.words_per_image)
        return list_words(place_words(words, self.names, lay_on_grid(coefficients, grid)), self.sure)

# SPDX-License-Identifier: Apache-2.0
"""Images are put into words one at a time, each content once, whoever asks."""

import threading
import time
from collections.abc import Callable
from io import BytesIO

import anyio
import pytest
from PIL import Image
from tiny_parts import SENTENCES, make_image
from wordy_models import compose

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextProcessor,
    SharedVocabulary,
)
from modeling_langbridge.image_opening import ImageError
from modeling_langbridge.reading.patch_words import strongest_words
from modeling_langbridge.reading.word_places import place_words
from serving import seeing
from serving.seeing import Eyes, open_eyes
from serving.wording import list_words


class CountingEyes(Eyes):
    """Counts the images that it looks at, at once and in all."""

    together = most = looks = 0
    lock = threading.Lock()

    def look(self, content: bytes) -> str:
        with self.lock:
            self.looks += 1
            self.together += 1
            self.most = max(self.most, self.together)
        time.sleep(0.05)
        try:
            return super().look(content)
        finally:
            self.together -= 1


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def save(vision, text, tmp_path_factory) -> Callable[..., str]:
    """Saves an adapter; returns its folder."""

    def save_adapter(**fields) -> str:
        folder = tmp_path_factory.mktemp("adapter") / "adapter"
        model, processor = compose(vision, text, **fields)
        LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder)
        return str(folder)

    return save_adapter


@pytest.fixture(scope="module")
def parts(save, vision):
    return open_eyes(save(coefficient_activation="gated_softmax"), vision, 5)


@pytest.fixture
def eyes(parts) -> CountingEyes:
    return CountingEyes(*parts, sure=0.2, max_pixels=10**6)


def read_together(eyes: Eyes, contents: list[bytes]) -> list[str]:
    found = [""] * len(contents)

    async def read(place: int) -> None:
        found[place] = await eyes.read(contents[place])

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for place in range(len(contents)):
                group.start_soon(read, place)

    anyio.run(main)
    return found


def test_an_image_has_the_words_of_strongest_words(eyes, parts):
    (found,) = read_together(eyes, [png(make_image())])
    seen = strongest_words(*parts, make_image())
    words = place_words(seen.photo, seen.names, seen.coefficients)
    assert found == list_words(words, 0.2) and len(words) == 5


def test_one_image_is_looked_at_at_a_time_and_each_once(eyes):
    red, blue, green = (png(make_image(colour)) for colour in ("red", "blue", "green"))
    found = read_together(eyes, [red, blue, red, green, red, blue])
    assert (eyes.looks, eyes.most) == (3, 1)
    assert found[0] == found[2] == found[4] and found[1] == found[5] and len({*found}) == 3
    assert read_together(eyes, [blue]) == [found[1]] and eyes.looks == 3


def test_the_oldest_images_are_forgotten(eyes, monkeypatch):
    monkeypatch.setattr(seeing, "KEPT", 2)
    red, blue, green = (png(make_image(colour)) for colour in ("red", "blue", "green"))
    for image in (red, blue, red, green, red):
        read_together(eyes, [image])
    assert eyes.looks == 3
    read_together(eyes, [blue])
    assert eyes.looks == 4 and len(eyes.known) == 2


def test_an_image_that_cannot_be_opened_is_asked_for_again(eyes):
    broken = png(make_image())[:60]
    for _ in range(2):
        with pytest.raises(ExceptionGroup) as caught:
            read_together(eyes, [broken])
        assert isinstance(caught.value.exceptions[0], ImageError)
    assert eyes.looks == 2 and not eyes.known


def test_a_large_image_is_refused_before_it_is_decoded(eyes, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="2000 x 501 pixels, and may have 1,000,000: send a smaller copy"):
        eyes.look(png(Image.new("1", (2000, 501))))


def test_an_adapter_of_tiles_reads_wide_images_whole(vision, text, tmp_path):
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES)
    model = LangBridgeNextForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=24, coefficient_activation="softmax"
    )
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    parts = open_eyes(str(tmp_path / "adapter"), vision, 5)
    assert isinstance(parts[0], LangBridgeNextForConditionalGeneration)
    eyes, image = Eyes(*parts, sure=0.2, max_pixels=10**6), make_image(size=(160, 50))
    seen = strongest_words(*parts, image)
    assert seen.grid[1] > seen.grid[0]
    assert eyes.look(png(image)) == list_words(place_words(seen.photo, seen.names, seen.coefficients), 0.2)
    with pytest.raises(ImageError, match="of 1 x 900 pixels has no patch of its own: widen it"):
        eyes.look(png(Image.new("RGB", (1, 900))))


def test_no_language_model_is_in_memory(eyes, parts):
    model, _ = parts
    assert sum(weight.numel() for weight in model.model.language_model.parameters()) < 5000


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({}, "has raw coefficients, which do not read as words"), ({"coefficient_activation": "softmax"}, None)],
)
def test_an_adapter_of_raw_coefficients_is_refused(save, vision, fields, sentence):
    folder = save(**fields)
    if sentence is None:
        assert open_eyes(folder, vision, 5)
    else:
        with pytest.raises(ValueError, match=sentence):
            open_eyes(folder, vision, 5)

# SPDX-License-Identifier: Apache-2.0
"""Images from wherever a sample keeps them, decoded whole, and each broken one refused by name."""

import base64
import random
from io import BytesIO

import pytest
from PIL import Image, ImageDraw
from tiny_parts import make_image

from modeling_langbridge import image_opening
from trainer.data.images import image_size, open_image
from trainer.data.samples import SampleError


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))


def test_an_image_is_the_same_from_wherever_it_comes(tmp_path):
    image = noise()
    content = encode(image)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    text = base64.b64encode(content).decode()
    sources = [
        str(path),
        path,
        content,
        image,
        text,
        f"data:image/png;base64,{text}",
        {"bytes": content, "path": None},
        {"bytes": content, "path": "elsewhere.png"},
        {"bytes": None, "path": str(path)},
        {"path": str(path)},
    ]
    for source in sources:
        opened = open_image(source)
        assert (opened.mode, opened.tobytes()) == ("RGB", image.tobytes())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK", "YCbCr", "F"])
def test_every_mode_becomes_rgb(mode):
    source = make_image().convert("I") if mode == "I;16" else make_image()
    image = source.convert(mode)
    # Pillow 12 cannot read the YCbCr that it writes as TIFF.
    content = encode(image, "JPEG" if mode == "YCbCr" else "TIFF")
    assert open_image(content).mode == "RGB"
    assert open_image(image).mode == "RGB"


def test_a_photo_taken_sideways_is_turned_upright():
    image = Image.new("RGB", (40, 20), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 9, 19), fill="black")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    opened = open_image(encode(image, exif=exif))
    assert opened.size == (20, 40)
    assert opened.getpixel((10, 2)) == (0, 0, 0) and opened.getpixel((10, 30)) == (255, 255, 255)


def test_an_animation_gives_its_first_picture():
    content = encode(make_image("red"), "GIF", save_all=True, append_images=[make_image("blue")])
    assert open_image(content).getpixel((17, 17))[0] > 200


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("gone.jpg", "missing image"),
        ({"bytes": None, "path": "gone.jpg"}, "missing image"),
        ("", "missing image"),
        (".", "missing image"),
        ("\0", "missing image"),
        ("a" * 5000, "missing image"),
        ("http://localhost:9/gone.jpg", "missing image"),
        (b"no image", "undecodable image"),
        (b"", "undecodable image"),
        ({"bytes": b"no image", "path": "gone.jpg"}, "undecodable image"),
        (3, "undecodable image"),
        (None, "undecodable image"),
        ({}, "undecodable image"),
    ],
)
def test_what_is_no_image_is_a_fault(source, fault):
    with pytest.raises(SampleError) as caught:
        open_image(source)
    assert caught.value.fault == fault
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_image_cut_anywhere_is_a_fault_and_names_its_file(tmp_path, image_format):
    content = encode(noise(), image_format)
    path = tmp_path / f"cut.{image_format.lower()}"
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        for source in (str(path), {"bytes": path.read_bytes(), "path": path.name}):
            with pytest.raises(SampleError, match=path.name) as caught:
                open_image(source)
            assert caught.value.fault in ("truncated image", "undecodable image")


def test_most_of_a_jpeg_is_not_enough(tmp_path):
    path = tmp_path / "cut.jpg"
    content = encode(noise(size=(200, 200)), "JPEG")
    path.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(SampleError, match=r"cut\.jpg cannot be decoded") as caught:
        open_image(str(path))
    assert caught.value.fault == "truncated image"


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_broken_bytes_are_a_fault_or_an_image_and_nothing_else(image_format):
    content = encode(noise(size=(24, 24)), image_format)
    chance = random.Random(0)
    num_faults = 0
    for _ in range(150):
        broken = bytearray(content)
        for _ in range(chance.choice((1, 4, 30))):
            broken[chance.randrange(min(len(broken), chance.choice((60, len(broken)))))] = chance.randrange(256)
        try:
            assert open_image(bytes(broken)).mode == "RGB"
        except SampleError:
            num_faults += 1
    assert num_faults > 0


def test_a_file_that_exists_is_never_called_missing(tmp_path):
    content = bytearray(encode(noise()))
    content[len(content) // 2 :] = b"\0" * (len(content) - len(content) // 2)
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(SampleError, match=r"broken\.png cannot be decoded") as caught:
        open_image(str(path))
    assert caught.value.fault != "missing image"


def test_broken_base64_is_refused_in_a_short_sentence():
    text = base64.b64encode(encode(noise()))[:3000].decode()
    for source in (text, f"data:image/png;base64,{text}", "data:image/png;base64,%%%", {"path": text}):
        with pytest.raises(SampleError, match="an image in base64") as caught:
            open_image(source)
        assert len(str(caught.value)) < 150


def test_an_image_too_large_to_decode_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    noise().save(path)
    monkeypatch.setattr(image_opening, "MAX_PIXELS", 100)
    with pytest.raises(SampleError, match=r"huge\.png has 64 x 48 pixels, and may have 100") as caught:
        open_image(str(path))
    assert caught.value.fault == "oversized image"


def test_data_may_not_name_an_address_of_the_machines_own_network():
    with pytest.raises(SampleError, match=r"localhost has a private address") as caught:
        open_image("http://localhost:9/gone.jpg")
    assert caught.value.fault == "missing image"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_a_size_is_that_of_the_opened_image(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{kind.lower()}"
    Image.new("RGB", (40, 20)).save(path, **({} if kind == "GIF" else {"exif": exif}))
    opened = open_image(str(path))
    for image in (str(path), path.read_bytes(), {"bytes": path.read_bytes()}, {"path": str(path)}, opened):
        assert image_size(image) == (opened.height, opened.width)


def test_a_size_that_cannot_be_read_is_refused_as_the_image_is(tmp_path):
    for name, content in (("text.png", b"no picture"), ("absent.png", None)):
        if content:
            (tmp_path / name).write_bytes(content)
        messages = []
        for function in (open_image, image_size):
            with pytest.raises(SampleError) as error:
                function(str(tmp_path / name))
            messages.append((error.value.fault, str(error.value)))
        assert messages[0] == messages[1]

# SPDX-License-Identifier: Apache-2.0
"""One picture has one reading: whatever it is kept in, and whoever opens it, the pixels are the same."""

import base64
import pickle
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import pytest
import torch
from PIL import Image, ImageDraw
from tiny_parts import ask, make_image

from modeling_langbridge.image_opening import ImageError, open_image
from modeling_langbridge.reading.patch_words import strongest_words


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def grey(values: list, mode: str) -> Image.Image:
    """A picture of one row."""
    kind = {"F": torch.float32, "I": torch.int32, "I;16": torch.uint16}[mode]
    image = Image.fromarray(torch.tensor([values], dtype=kind).numpy())
    assert image.mode == mode
    return image


def levels(image: Image.Image) -> list[int]:
    opened = open_image(image)
    red, green, blue = opened.split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()
    return list(red.tobytes())


def hidden_under_transparency() -> Image.Image:
    """Red on the left; on the right what a program left under full transparency: black."""
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 20, 20))
    return image


@pytest.fixture(scope="module")
def photo():
    """A phone's: upside down, with an EXIF that says so."""
    exif = Image.Exif()
    exif[0x0112] = 3
    image = make_image()
    ImageDraw.Draw(image).rectangle((0, 0, image.width, 5), fill="blue")
    return encode(image, exif=exif)


@pytest.fixture(scope="module")
def served(photo):
    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/photo.png" else 404)
            self.end_headers()
            self.wfile.write(photo)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/photo.png"
    server.shutdown()
    server.server_close()


def test_training_and_every_way_into_inference_read_the_same_pixels(processor, photo, served, tmp_path):
    from trainer.data.images import open_image as open_for_training

    path = tmp_path / "photo.png"
    path.write_bytes(photo)
    text = base64.encodebytes(photo).decode()
    upright = make_image()
    ImageDraw.Draw(upright).rectangle((0, 0, upright.width, 5), fill="blue")
    upright = upright.rotate(180)
    expected = processor.image_processor(upright, return_tensors="pt")["pixel_values"]
    forms = [str(path), path, photo, Image.open(path), Image.open(BytesIO(photo)), text, served]
    forms += [f"data:image/png;base64,{text}", {"bytes": photo, "path": None}, {"bytes": None, "path": str(path)}]
    for form in forms:
        for opened in (open_for_training(form), processor.open_image(form)):
            assert (opened.mode, opened.tobytes()) == ("RGB", upright.tobytes())
        for inputs in (
            processor.apply_chat_template(ask(form), tokenize=True, return_dict=True, return_tensors="pt"),
            processor(text="<image>", images=form, return_tensors="pt"),
            processor(text=["<image>"], images=[[form]], return_tensors="pt"),
        ):
            assert torch.equal(inputs["pixel_values"], expected)
    blocks = [{"path": str(path)}, {"url": served}, {"base64": text}, {"url": f"data:image/png;base64,{text}"}]
    for block in blocks:
        chat = [{"role": "user", "content": [{"type": "image", **block}, {"type": "text", "text": "?"}]}]
        inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
        assert torch.equal(inputs["pixel_values"], expected)


def test_words_are_read_from_the_same_pixels(processor, model, photo, tmp_path):
    (tmp_path / "photo.png").write_bytes(photo)
    expected = strongest_words(model, processor, open_image(photo))
    for form in (Image.open(tmp_path / "photo.png"), tmp_path / "photo.png"):
        words = strongest_words(model, processor, form)
        assert words.view.tobytes() == expected.view.tobytes()
        assert torch.equal(words.coefficients, expected.coefficients)


def test_arrays_and_tensors_are_left_to_the_image_processor(processor):
    pixels = torch.randint(0, 256, (3, 40, 48), dtype=torch.uint8)
    for image in (pixels, pixels.numpy()):
        expected = processor.image_processor(image, return_tensors="pt")["pixel_values"]
        assert torch.equal(processor(text="<image>", images=image, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "F"])
def test_every_mode_is_turned_upright(mode, orientation):
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF's orientations as PIL's transpositions
    image = grey([0, 0.25, 0.5, 1], "F") if mode == "F" else grey([0, 2570, 25700, 65535], "I;16")
    image = image if mode in ("F", "I;16") else open_image(image).convert(mode)
    expected = open_image(image.copy())  # PIL reads an EXIF once
    if orientation > 1:
        expected = expected.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    opened = open_image(image)
    assert (opened.size, opened.tobytes()) == (expected.size, expected.tobytes())
    assert open_image(opened).tobytes() == expected.tobytes()  # not turned a second time


def by_index(image: Image.Image) -> Image.Image:
    flat = Image.new("P", image.size, 0)
    flat.putpalette([0, 0, 0, 255, 0, 0])
    flat.paste(1, (0, 0, 20, 20))
    flat.info["transparency"] = 0
    return flat


TRANSPARENT = {
    "RGBA": lambda image: image,
    "premultiplied": lambda image: image.convert("RGBa"),
    "PA": lambda image: image.convert("PA"),
    "palette with an index": by_index,
    "palette with alphas": lambda image: Image.open(BytesIO(encode(image.quantize(4), "PNG"))),
    "GIF": lambda image: Image.open(BytesIO(encode(by_index(image), "GIF", transparency=0))),
    "WebP": lambda image: Image.open(BytesIO(encode(image, "WEBP", lossless=True))),
    "one colour": lambda image: Image.open(BytesIO(encode(image.convert("RGB"), transparency=(0, 0, 0)))),
}


@pytest.mark.parametrize("keep", TRANSPARENT.values(), ids=TRANSPARENT.keys())
def test_transparency_of_any_kind_is_on_white(keep):
    opened = open_image(keep(hidden_under_transparency()))
    assert (opened.getpixel((5, 5)), opened.getpixel((35, 5))) == ((255, 0, 0), (255, 255, 255))


def test_half_transparency_is_half_white():
    assert open_image(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["LA", "La"])
def test_transparent_grey_is_on_white(mode):
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((0, 0), (100, 255))
    assert levels(image.convert(mode)) == [100, 255]


@pytest.mark.parametrize(
    ("grey_image", "transparent"),
    [(grey([0, 25700, 65535], "I;16"), 25700), (Image.frombytes("L", (3, 1), b"\x00\x64\xff"), 100)],
)
def test_a_transparent_grey_level_is_white(grey_image, transparent):
    stored = Image.open(BytesIO(encode(grey_image, transparency=transparent)))
    assert levels(stored) == [0, 255, 255]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I;16", [0, 256, 25700, 65535], [0, 1, 100, 255]),
        ("I;16", [0, 100, 200, 255], [0, 0, 1, 1]),  # dark stays dark
        ("I", [0, 100, 200, 255], [0, 100, 200, 255]),
        ("I", [0, 257, 25700, 65535], [0, 1, 100, 255]),
        ("I", [0, 257, 25700], [0, 1, 100]),  # 16 bits, though none of its values is white
        ("I", [-100, -50, 0, 100], [0, 64, 128, 255]),
        ("I", [-(2**31), 0, 2**31 - 1], [0, 128, 255]),
        ("F", [0.0, 0.25, 0.5], [0, 64, 128]),
        ("F", [2.0, 3.0, 12.0], [0, 26, 255]),
        ("F", [-1.0, 0.0, 1.0], [0, 128, 255]),
        ("F", [float("nan"), 2.0, 12.0, float("inf"), float("-inf")], [0, 0, 255, 255, 0]),
        ("F", [7.0, 7.0], [0, 0]),
    ],
)
def test_deep_grey_is_scaled(mode, values, expected):
    assert levels(grey(values, mode)) == expected


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_the_order_of_a_deep_pictures_bytes_makes_no_difference(mode):
    values = [0, 257, 25700, 65535]
    order = "big" if mode == "I;16B" else "little"
    image = Image.frombytes(mode, (4, 1), b"".join(value.to_bytes(2, order) for value in values))
    assert levels(image) == [0, 1, 100, 255]


def test_a_deep_picture_is_the_same_from_files_that_pil_opens_in_other_modes():
    deep = grey([257 * level for level in range(256)], "I;16")
    portable = b"P5 256 1 65535\n" + b"".join((257 * level).to_bytes(2, "big") for level in range(256))
    files = [encode(deep), encode(deep, "TIFF"), portable]
    assert {Image.open(BytesIO(file)).mode for file in files} == {"I;16", "I"}
    assert [levels(Image.open(BytesIO(file))) for file in files] == [list(range(256))] * 3


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_picture_also_when_it_is_opened(image_format, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = tmp_path / "moving"
    path.write_bytes(encode(frames[0], image_format, save_all=True, append_images=frames[1:]))
    for source in (str(path), path.read_bytes(), Image.open(path)):
        red, _, blue = open_image(source).getpixel((4, 4))
        assert red > 200 > 50 > blue


def test_the_given_image_stays_as_it_is():
    image = hidden_under_transparency()
    before = image.tobytes()
    open_image(image).putpixel((0, 0), (1, 2, 3))
    assert (image.mode, image.tobytes()) == ("RGBA", before)


def test_what_is_too_large_is_named_in_one_sentence_wherever_it_is_read(processor, tmp_path, monkeypatch):
    make_image().save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for read in (processor.open_image, lambda path: processor(text="<image>", images=path)):
        with pytest.raises(ValueError, match=r"^The image \S*huge\.png cannot be decoded: .* exceeds limit .*\.$"):
            read(str(tmp_path / "huge.png"))


def test_an_opened_image_that_breaks_off_is_named(processor, tmp_path):
    path = tmp_path / "torn.png"
    path.write_bytes(encode(make_image())[:120])
    with pytest.raises(ImageError, match=r"^The image \S*torn\.png cannot be decoded"):
        processor(text="<image>", images=Image.open(path))


def test_floats_without_a_number_are_refused():
    with pytest.raises(ImageError, match="none of its values is a number"):
        open_image(grey([float("nan")] * 2, "F"))


def test_a_page_that_is_not_there_is_a_missing_image(served):
    with pytest.raises(ImageError, match=r"gone\.png cannot be fetched: .*404") as caught:
        open_image(served.replace("photo", "gone"))
    assert caught.value.fault == "missing image"


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(ImageError("missing image", "the image a.png does not exist")))
    assert (str(error), error.fault) == ("The image a.png does not exist.", "missing image")

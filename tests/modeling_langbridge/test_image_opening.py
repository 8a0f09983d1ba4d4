# SPDX-License-Identifier: Apache-2.0
"""One picture has one reading: whatever it is kept in, and whoever opens it, the pixels are the same."""

import base64
import ipaddress
import os
import pickle
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import pytest
import torch
from PIL import Image, ImageDraw
from tiny_parts import ask, make_image

from modeling_langbridge import image_opening
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
    """The URL of the photo on a server of this machine, which also redirects, drips and never ends."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            kind, _, rest = self.path[1:].partition("/")
            if kind == "redirect":
                self.send_response(302)
                self.send_header("Location", rest if "://" in rest else f"/{rest}")
                self.end_headers()
                return
            self.send_response(200 if kind in ("photo.png", "endless", "slow") else 404)
            self.end_headers()
            try:
                while kind in ("endless", "slow"):
                    self.wfile.write(bytes(2**16 if kind == "endless" else 1))
                    time.sleep(0 if kind == "endless" else 0.05)
                self.wfile.write(photo)
            except OSError:  # the client had enough
                pass

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
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
        # Data may not name an address of this machine.
        for opened in (processor.open_image(form), *([] if form is served else [open_for_training(form)])):
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


@pytest.mark.parametrize("side", [8300, 14000])  # PIL's own limit lies between
def test_too_many_pixels_are_refused_by_the_header_wherever_it_is_read(processor, tmp_path, monkeypatch, side):
    path = tmp_path / "huge.png"
    Image.new("1", (side, side)).save(path)
    assert path.stat().st_size < 50_000
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    opened = [] if side > 10_000 else [Image.open(path)]
    for source in (str(path), path.read_bytes(), *opened):
        for read in (processor.open_image, lambda image: processor(text="<image>", images=image)):
            with pytest.raises(ImageError, match=r"^(The image \S*huge\.png|An image) .* 67,108,864.*\.$") as caught:
                read(source)
            assert caught.value.fault == "oversized image"


def test_as_many_pixels_as_a_large_camera_takes_are_read(monkeypatch):
    monkeypatch.setattr(image_opening, "MAX_PIXELS", 48 * 40)
    assert open_image(encode(make_image())).size == (48, 40)
    with pytest.raises(ImageError, match="48 x 40 pixels, and may have 1,919"):
        monkeypatch.setattr(image_opening, "MAX_PIXELS", 48 * 40 - 1)
        open_image(make_image())


@pytest.mark.parametrize("image_format", ["EPS", "ICO", "TGA", "PCX", "JPEG2000"])
def test_formats_that_start_programs_or_are_rare_are_not_decoded(image_format, tmp_path):
    path = tmp_path / "drawing.png"
    path.write_bytes(encode(make_image(), image_format))
    Image.open(path)  # PIL itself would
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match=r"is of no format that can be decoded \(JPEG, PNG, .*\)\.$"):
            open_image(source)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_common_formats_are_decoded(image_format):
    assert open_image(encode(make_image(), image_format)).size == (48, 40)


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in (("pipe.png", "is no file"), (".", "is no file"), ("gone.png", "does not exist")):
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(tmp_path / name)
        assert caught.value.fault == "missing image"


def test_a_url_may_redirect_a_few_times(served):
    server = served.removesuffix("photo.png")
    assert open_image(f"{server}{'redirect/' * 5}photo.png").size == (48, 40)
    with pytest.raises(ImageError, match="redirected more than 5 times"):
        open_image(f"{server}{'redirect/' * 6}photo.png")
    with pytest.raises(ImageError, match="cannot be fetched"):
        open_image(f"{server}redirect/file:///etc/hostname")


def test_what_a_url_answers_is_limited_in_size_and_time(served, monkeypatch):
    monkeypatch.setattr(image_opening, "MAX_BYTES", 10**6)
    with pytest.raises(ImageError, match=r"has more than 1,000,000 bytes") as caught:
        open_image(served.replace("photo.png", "endless"))
    assert caught.value.fault == "oversized image"
    monkeypatch.setattr(image_opening, "MAX_SECONDS", 0.2)
    with pytest.raises(ImageError, match="takes more than 0.2 seconds"):
        open_image(served.replace("photo.png", "slow"))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]"]
)
def test_data_may_not_name_a_private_address(host):
    with pytest.raises(ImageError, match="is not fetched: .* has a private address"):
        open_image(f"http://{host}:9/photo.png", public_only=True)


def test_each_host_on_the_way_is_checked_and_the_checked_address_is_asked(served, monkeypatch):
    port = served.split(":")[2].partition("/")[0]
    addresses = {"pictures.example": ["127.0.0.1"], "inside.example": ["127.0.0.1", "127.0.0.3"]}
    look_up = socket.getaddrinfo

    def look_up_once(host, *arguments, **options):
        if host in addresses:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses.pop(host)]
        return look_up(host, *arguments, **options)

    class Address(ipaddress.IPv4Address):
        is_global = property(lambda self: str(self) == "127.0.0.1")

    monkeypatch.setattr(socket, "getaddrinfo", look_up_once)
    monkeypatch.setattr(ipaddress, "ip_address", Address)
    start = f"http://pictures.example:{port}/redirect/http://inside.example:{port}/photo.png"
    with pytest.raises(ImageError, match="inside.example has a private address"):
        open_image(start, public_only=True)
    addresses["pictures.example"] = ["127.0.0.1"]
    assert open_image(f"http://pictures.example:{port}/photo.png", public_only=True).size == (48, 40)
    with pytest.raises(ImageError, match="cannot be fetched"):
        open_image(f"http://gone.invalid:{port}/photo.png", public_only=True)


def test_a_deep_picture_is_scaled_alike_in_all_its_parts():
    values = torch.arange(2**11 * 700, dtype=torch.int32).view(2**11, 700)
    opened = open_image(Image.fromarray(values.numpy()))
    expected = (values.double() / values.max() * 255).round().byte()
    assert torch.equal(
        torch.frombuffer(bytearray(opened.getchannel(0).tobytes()), dtype=torch.uint8), expected.flatten()
    )


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

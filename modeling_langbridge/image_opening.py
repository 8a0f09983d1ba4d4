# SPDX-License-Identifier: Apache-2.0
"""The one way from an image, wherever it comes from, to the RGB pixels that training and inference read."""

import base64
import ipaddress
import os
import re
import socket
import time
from binascii import Error as Base64Error
from io import BytesIO
from typing import Any

import torch
from huggingface_hub.utils import httpx
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError


WEB = ("http://", "https://")
# PIL's others are rare, and some start programs: PostScript (EPS) runs in Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 2**26  # 67 million: cameras of 61 megapixels pass, and decoding needs 1.5 GB at most
MAX_BYTES = 50 * 2**20  # of what a URL answers
MAX_SECONDS = 30  # for a URL, redirects included
MAX_REDIRECTS = 5
# How the base64 of a PNG, JPEG, WebP, GIF, BMP or TIFF begins; no path is that long without a dot.
BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|UklGR|R0lGOD|Qk|SUkq|TU0A)[A-Za-z0-9+/\s]{40,}={0,2}\s*")


class ImageError(ValueError):
    """An image that cannot be opened. `fault` names the kind of fault; `reason` names the image and says why."""

    def __init__(self, fault: str, reason: str):
        super().__init__(f"{reason[0].upper()}{reason[1:].rstrip('.')}.")
        self.fault, self.reason = fault, reason

    def __reduce__(self):  # for errors in other processes, which travel pickled
        return type(self), (self.fault, self.reason)


def open_image(image: Any, public_only: bool = False) -> Image.Image:
    """
    Opens and decodes an image: a path, URL or base64 text, bytes, datasets' `{"bytes", "path"}`, or a PIL image.

    A picture from a stranger costs little before it is refused. The format must be one of `FORMATS`, and an image of
    more than `MAX_PIXELS` is refused by its header, before it is decoded. A URL may answer with `MAX_BYTES` at most,
    in `MAX_SECONDS`, after `MAX_REDIRECTS` redirects.

    Args:
        image:
            The image.
        public_only (`bool`, *optional*, defaults to `False`):
            Refuse URLs of private and local addresses, also behind a redirect. Training does, since its data may be a
            stranger's. In inference a URL is its user's own choice.

    Returns:
        `PIL.Image.Image`, decoded to its last line, as [`to_rgb`] makes it; of an animation, the first picture.

    Raises:
        [`ImageError`]: the image is missing, truncated, too large or undecodable; the message names it.
    """
    content = image.get("bytes") if isinstance(image, dict) else image
    path = image.get("path") if isinstance(image, dict) else image
    path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    name = image.filename if isinstance(image, ImageFile.ImageFile) else path
    name = "an image in base64" if is_inline(name) else f"the image {name[:200]}" if name else "an image"
    try:
        if isinstance(content, Image.Image):
            check_size(content, name)
            return to_rgb(content)
        if isinstance(content, bytes):
            source = BytesIO(content)
        elif path is not None:
            source = find_source(path, name, public_only)
        else:
            raise TypeError(f"{image!r:.60} is neither a path, a URL, bytes nor an image")
        with Image.open(source, formats=FORMATS) as opened:
            check_size(opened, name)
            return to_rgb(opened)
    except ImageError:
        raise
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise ImageError("missing image", f"{name} cannot be fetched: the server answers {status}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ImageError("missing image", f"{name} cannot be fetched: {error}") from error
    except (UnidentifiedImageError, Base64Error) as error:
        raise ImageError(
            "undecodable image", f"{name} is of no format that can be decoded ({', '.join(FORMATS)})"
        ) from error
    except Image.DecompressionBombError as error:  # PIL's own limit, which is higher
        raise ImageError(
            "oversized image", f"{name} has more than {MAX_PIXELS:,} pixels: give a smaller copy"
        ) from error
    except Exception as error:  # decoders fail in as many ways as there are broken files
        is_cut = "truncated" in str(error) or "unexpected end" in str(error)
        fault = "truncated image" if is_cut else "undecodable image"
        raise ImageError(fault, f"{name} cannot be decoded: {error}") from error


def is_inline(image: Any) -> bool:
    """Whether a text is an image itself, as a data URI or in base64, and no path."""
    return isinstance(image, str) and (image.startswith("data:") or BASE64.fullmatch(image) is not None)


def check_size(image: Image.Image, name: str) -> None:
    """Refuses an image by the size that its header says, before a pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            "oversized image",
            f"{name} has {image.width} x {image.height} pixels, and may have {MAX_PIXELS:,}: give a smaller copy",
        )


def find_source(path: str, name: str, public_only: bool) -> str | BytesIO:
    """What PIL opens: the file of a path, or the bytes of a URL or of base64 text."""
    if path.startswith(WEB):
        return BytesIO(fetch(path, name, public_only))
    if is_inline(path):
        text = path.partition(",")[2] if path.startswith("data:") else path
        return BytesIO(base64.decodebytes(text.encode("ascii", "replace")))
    if os.path.isfile(path):
        return path
    # A named pipe, opened, would wait for ever.
    raise ImageError("missing image", f"{name} {'is no file' if os.path.exists(path) else 'does not exist'}")


def fetch(path: str, name: str, public_only: bool) -> bytes:
    """What a URL answers, within the limits above."""
    url, deadline = httpx.URL(path), time.monotonic() + MAX_SECONDS
    # A compressed answer could be of any size, and images are compressed already.
    with httpx.Client(timeout=10, headers={"Accept-Encoding": "identity"}) as client:
        for _ in range(MAX_REDIRECTS + 1):
            # The address that was checked is asked: looked up again, the name could lead elsewhere.
            address = find_public_address(url.host, name) if public_only else url.host
            named = {"headers": {"Host": url.netloc.decode("ascii")}, "extensions": {"sni_hostname": url.host}}
            with client.stream("GET", url.copy_with(host=address), **named) as response:
                if not response.has_redirect_location:
                    return read_answer(response.raise_for_status(), name, deadline)
                url = url.join(response.headers["Location"])
    raise ImageError("missing image", f"{name} cannot be fetched: it is redirected more than {MAX_REDIRECTS} times")


def read_answer(response: httpx.Response, name: str, deadline: float) -> bytes:
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > MAX_BYTES:
            raise ImageError("oversized image", f"{name} has more than {MAX_BYTES:,} bytes: give a smaller copy")
        if time.monotonic() > deadline:
            raise ImageError("missing image", f"{name} cannot be fetched: it takes more than {MAX_SECONDS} seconds")
    return bytes(content)


def find_public_address(host: str, name: str) -> str:
    """Where a host is; one in the network of the machine itself, whose pages are nobody else's to read, is refused."""
    try:
        found = [address[0] for *_, address in socket.getaddrinfo(host, None)]
    except OSError as error:
        raise ImageError("missing image", f"{name} cannot be fetched: {error}") from error
    if not all(ipaddress.ip_address(address).is_global for address in found):
        raise ImageError("missing image", f"{name} is not fetched: {host} has a private address")
    return found[0]


def open_images(images: Any) -> Any:
    """Opens the images in nested lists; arrays, tensors and whatever else transformers takes stay as they are."""
    if isinstance(images, (list, tuple)):
        return [open_images(image) for image in images]
    opens = isinstance(images, (str, os.PathLike, bytes, dict, Image.Image))
    return open_image(images) if opens else images


def to_rgb(image: Image.Image) -> Image.Image:
    """Makes an image RGB: turned upright as its EXIF says, transparency on white, deep grey scaled to 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = scale_to_8_bits(image)
    if image.mode == "La":  # PIL has no direct way from premultiplied grey to RGBA
        image = image.convert("LA")
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scales grey of 16 bits, 32 bits or floats to 8 bits, which PIL itself would clip.

    16-bit images keep their type's range: 65535 is white. PIL also opens 16-bit images as 32-bit ones, so whole
    numbers from 0 to 255 or 65535 are read as such a range, and floats from 0 to 1 as that one. Any other values are
    stretched from their own minimum to their maximum. What is not a number is black.
    """
    is_float = image.mode == "F"
    raw = image.tobytes() if is_float else image.convert("I").tobytes()
    values = torch.frombuffer(bytearray(raw), dtype=torch.float32 if is_float else torch.int32)
    finite = values[values.isfinite()]
    if not len(finite):
        raise ValueError("none of its values is a number")
    low, high = finite.min().item(), finite.max().item()
    if image.mode.startswith("I;16"):
        tops = [65535]
    else:
        tops = [1] if is_float else [255, 65535]
    low, high = next(((0, top) for top in tops if 0 <= low and high <= top), (low, high))
    levels = torch.empty(len(values), dtype=torch.uint8)
    for some, scaled in zip(values.split(2**20), levels.split(2**20), strict=True):  # in double: little at a time
        shares = (some.double() - low) / ((high - low) or 1)  # a picture of one value is black
        scaled.copy_((shares * 255).nan_to_num(nan=0.0, posinf=255.0, neginf=0.0).round())
    transparent = image.info.get("transparency")
    if transparent is not None:
        levels[values == transparent] = 255  # on white, like all transparency
    return Image.fromarray(levels.view(image.height, image.width).numpy())

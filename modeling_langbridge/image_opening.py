# SPDX-License-Identifier: Apache-2.0
"""The one way from an image, wherever it comes from, to the RGB pixels that training and inference read."""

import base64
import os
from binascii import Error as Base64Error
from io import BytesIO
from typing import Any

import torch
from huggingface_hub.utils import httpx
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError


WEB = ("http://", "https://")


class ImageError(ValueError):
    """An image that cannot be opened. `fault` names the kind of fault; `reason` names the image and says why."""

    def __init__(self, fault: str, reason: str):
        super().__init__(f"{reason[0].upper()}{reason[1:].rstrip('.')}.")
        self.fault, self.reason = fault, reason

    def __reduce__(self):  # for errors in other processes, which travel pickled
        return type(self), (self.fault, self.reason)


def open_image(image: Any) -> Image.Image:
    """Opens and decodes an image: a path, URL or base64 text, bytes, datasets' `{"bytes", "path"}`, or a PIL image.

    Returns:
        `PIL.Image.Image`, decoded to its last line, as [`to_rgb`] makes it; of an animation, the first picture.

    Raises:
        [`ImageError`]: the image is missing, truncated, too large or undecodable; the message names it.
    """
    content = image.get("bytes") if isinstance(image, dict) else image
    path = image.get("path") if isinstance(image, dict) else image
    path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    name = image.filename if isinstance(image, ImageFile.ImageFile) else path
    # Base64 text is long and, unlike a path, has no suffix.
    is_text = path is not None and (path.startswith("data:") or (len(path) > 200 and "." not in path))
    name = "an image in base64" if is_text else f"the image {name[:200]}" if name else "an image"
    try:
        if isinstance(content, Image.Image):
            return to_rgb(content)
        if isinstance(content, bytes):
            source = BytesIO(content)
        elif path is not None:
            source = find_source(path)
        else:
            raise TypeError(f"{image!r:.60} is neither a path, a URL, bytes nor an image")
        with Image.open(source) as opened:
            return to_rgb(opened)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ImageError("missing image", f"{name} cannot be fetched: {error}") from error
    except (UnidentifiedImageError, Base64Error) as error:
        is_stored = isinstance(content, bytes) or path is None or path.startswith((*WEB, "data:"))
        if not is_stored and not os.path.isfile(path):
            raise ImageError("missing image", f"{name} does not exist") from error
        raise ImageError("undecodable image", f"{name} is of no format that can be decoded") from error
    except Exception as error:  # decoders fail in as many ways as there are broken files
        is_cut = "truncated" in str(error) or "unexpected end" in str(error)
        fault = "truncated image" if is_cut else "undecodable image"
        raise ImageError(fault, f"{name} cannot be decoded: {error}") from error


def find_source(path: str) -> str | BytesIO:
    """What PIL opens: the file of a path, or the bytes of a URL or of base64 text."""
    if path.startswith(WEB):
        return BytesIO(httpx.get(path, timeout=None, follow_redirects=True).raise_for_status().content)
    if os.path.isfile(path):
        return path
    text = path.partition(",")[2] if path.startswith("data:") else path
    return BytesIO(base64.decodebytes(text.encode("ascii", "replace")))


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
    values = torch.frombuffer(bytearray(raw), dtype=torch.float32 if is_float else torch.int32).double()
    finite = values[values.isfinite()]
    if not len(finite):
        raise ValueError("none of its values is a number")
    low, high = finite.min().item(), finite.max().item()
    if image.mode.startswith("I;16"):
        tops = [65535]
    else:
        tops = [1] if is_float else [255, 65535]
    low, high = next(((0, top) for top in tops if 0 <= low and high <= top), (low, high))
    levels = (values - low) / ((high - low) or 1) * 255  # a picture of one value is black
    levels = levels.nan_to_num(nan=0.0, posinf=255.0, neginf=0.0).round().byte()
    transparent = image.info.get("transparency")
    if transparent is not None:
        levels[values == transparent] = 255  # on white, like all transparency
    return Image.fromarray(levels.view(image.height, image.width).numpy())

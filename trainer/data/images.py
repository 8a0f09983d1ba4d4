# SPDX-License-Identifier: Apache-2.0
"""Images from wherever a dataset keeps them, opened whole, or refused by name."""

import base64
import os
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from transformers.image_utils import load_image

from .samples import SampleError, is_image_file, is_inline, path_of


def list_images(folder: str | os.PathLike) -> list[str]:
    """The image files of a folder, by name."""
    return sorted(str(path) for path in Path(folder).glob("*") if path.is_file() and is_image_file(path.name))


def open_image(image: Any) -> Image.Image:
    """
    Opens and decodes an image: a path, URL or base64 text, bytes, datasets' `{"bytes", "path"}`, or a PIL image.

    Returns:
        `PIL.Image.Image`, decoded to its last line, in RGB, upright.

    Raises:
        [`SampleError`]: the image is missing, truncated or undecodable; the message names it.
    """
    content = image.get("bytes") if isinstance(image, dict) else image
    path = path_of(image)
    is_text = not isinstance(content, bytes) and is_inline(path)
    name = "an image in base64" if is_text else f"the image {path[:200]}" if path else "an image"
    try:
        if is_text:
            content = base64.b64decode(path.partition(",")[2] or path)
        if isinstance(content, bytes):
            return load_image(Image.open(BytesIO(content)))
        return load_image(image if path is None else path)
    except UnidentifiedImageError as error:
        raise SampleError("undecodable image", f"{name} is of no format that can be decoded") from error
    except Exception as error:  # decoders fail in as many ways as there are broken files
        if path is not None and not isinstance(content, bytes) and not os.path.isfile(path):  # nor base64 text
            why = f"cannot be fetched: {error}" if path.startswith(("http://", "https://")) else "does not exist"
            raise SampleError("missing image", f"{name} {why}") from error
        is_cut = "truncated" in str(error) or "unexpected end" in str(error)
        kind = "truncated image" if is_cut else "undecodable image"
        raise SampleError(kind, f"{name} cannot be decoded: {error}") from error

# SPDX-License-Identifier: Apache-2.0
"""Images from wherever a dataset keeps them, opened whole, or refused by name."""

import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from modeling_langbridge import image_opening

from .faults import SampleError
from .image_places import file_of, is_image_file


ON_THEIR_SIDE = (5, 6, 7, 8)  # EXIF's orientations that swap height and width


def list_images(folder: str | os.PathLike) -> list[str]:
    """The image files of a folder, by name."""
    return sorted(str(path) for path in Path(folder).glob("*") if path.is_file() and is_image_file(path.name))


def find_images(paths: list[Path]) -> list[Path]:
    """The files that `--images` names and the images of the folders that it names, each once."""
    images = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"--images {path} does not exist: name images, or folders of images.")
        if path.is_dir():
            found = list_images(path)
            if not found:
                raise ValueError(f"--images {path} is a folder without images (.jpg, .jpeg, .png, .webp).")
            images += map(Path, found)
        else:
            images.append(path)
    return list(dict.fromkeys(images))


def open_image(image: Any) -> Image.Image:
    """
    Opens and decodes an image as inference does, see [`~modeling_langbridge.image_opening.open_image`], except that
    URLs of private and local addresses are refused: data may come from a stranger.

    Raises:
        [`SampleError`]: the image is missing, truncated, too large or undecodable; the message names it.
    """
    try:
        return image_opening.open_image(image, public_only=True)
    except image_opening.ImageError as error:
        raise SampleError(error.fault, error.reason) from error


def image_size(image: Any) -> tuple[int, int]:
    """
    Height and width in pixels of an image as [`open_image`] opens it, upright. Of a file and of bytes only the header
    is read.

    Raises:
        [`SampleError`]: as [`open_image`].
    """
    content = image.get("bytes") if isinstance(image, dict) else image
    source = BytesIO(content) if isinstance(content, bytes) else file_of(image)
    if isinstance(source, BytesIO) or (source is not None and os.path.isfile(source)):
        with suppress(Exception), Image.open(source, formats=image_opening.FORMATS) as header:
            image_opening.check_size(header, "")
            # Not PNG's own method, which decodes the picture to look behind it.
            orientation = Image.Image.getexif(header).get(ExifTags.Base.Orientation)
            width, height = header.size
            swaps = orientation in ON_THEIR_SIDE and header.format != "TIFF"  # whose size is already the upright one's
            return (width, height) if swaps else (height, width)
    width, height = open_image(image).size  # or an error that names the image
    return height, width

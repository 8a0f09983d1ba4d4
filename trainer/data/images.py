# SPDX-License-Identifier: Apache-2.0
"""Images from wherever a dataset keeps them, opened whole, or refused by name."""

import os
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_langbridge import image_opening

from .faults import SampleError
from .image_places import is_image_file


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

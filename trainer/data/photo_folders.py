# SPDX-License-Identifier: Apache-2.0
"""Photos of a folder for jobs that need no particular one: the broken are reported, and the rest is used."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .faults import SampleError
from .images import list_images, open_image


logger = logging.getLogger(__name__)


def find_photos(folder: Path, option: str) -> list[str]:
    """The image files of a folder; raises `ValueError`, which names the option, where there are none."""
    if not folder.is_dir():
        raise ValueError(f"{option} {folder} must be a folder with images, and there is no such folder.")
    if photos := list_images(folder):
        return photos
    raise ValueError(f"{option} {folder} must be a folder with images (.jpg, .jpeg, .png, .webp), and holds none.")


def leave_out_broken(photos: Sequence[Any], option: str) -> list[Any]:
    """
    The photos that can be opened. The others are counted and named in a warning.

    Args:
        photos (`Sequence`): What [`~trainer.data.images.open_image`] opens.
        option (`str`): Where they come from, for the message.

    Raises:
        `ValueError`: none can be opened.
    """
    with ThreadPoolExecutor() as executor:
        faults = list(executor.map(find_fault, photos))
    if broken := [fault for fault in faults if fault is not None]:
        some = "; ".join(broken[:3]) + ("; ..." if len(broken) > 3 else "")
        if len(broken) == len(photos):
            raise ValueError(f"None of the {len(photos)} images of {option} can be opened: {some}.")
        logger.warning("%d of the %d images of %s are left out: %s.", len(broken), len(photos), option, some)
    return [photo for photo, fault in zip(photos, faults, strict=True) if fault is None]


def find_fault(photo: Any) -> str | None:
    try:
        open_image(photo).close()
    except SampleError as error:
        return str(error).rstrip(".")
    return None

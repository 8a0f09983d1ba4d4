# SPDX-License-Identifier: Apache-2.0
"""Where the images of samples lie, and where those of a stranger's may lie."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .faults import SampleError, malformed
from .fields import IMAGE_SUFFIXES


WEB = ("http://", "https://")


@dataclass(frozen=True)
class ImageRules:
    """
    Which images data may name. Images that lie in the data themselves always are.

    Args:
        folder (`str`): Where image files may lie, at any depth. Links in it are followed.
        allow_urls (`bool`, *optional*, defaults to `False`): Whether images may be URLs.
        allow_outside (`bool`, *optional*, defaults to `False`): Whether image files may lie outside the folder.
    """

    folder: str
    allow_urls: bool = False
    allow_outside: bool = False

    def check(self, image: Any) -> None:
        """Raises [`SampleError`] for an image that only a flag allows, and names the flag."""
        path = file_of(image, urls_too=True)
        if path is None:
            return
        if path.startswith(WEB):
            if not self.allow_urls:
                reason = "is a URL: set `allow_image_urls` where you trust the data"
                raise SampleError("image elsewhere", f"the image {path[:200]} {reason}")
        elif not self.allow_outside and not is_inside(path, self.folder):
            reason = "set another `image_folder`, or `allow_paths_outside` where you trust the data"
            raise SampleError("image elsewhere", f"the image {path[:200]} is not in {self.folder}: {reason}")


def is_inside(path: str, folder: str) -> bool:
    """Whether a path leads into a folder by its parts; links are the user's own and not resolved."""
    folder = os.path.abspath(folder)
    return os.path.commonpath([folder, os.path.abspath(path)]) == folder


def file_of(image: Any, urls_too: bool = False) -> str | None:
    """The file, or else the URL, that an image is read from; `None` for one that lies in the data themselves."""
    if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
        return None
    path = path_of(image)
    return None if not path or is_inline(path) or (path.startswith(WEB) and not urls_too) else path


def in_folder(image: Any, image_folder: str | Path | None) -> Any:
    """A relative path joined to the folder; anything else as it is."""
    if isinstance(image, (bytes, Image.Image)) or (isinstance(image, dict) and isinstance(image.get("bytes"), bytes)):
        return image
    path = path_of(image)
    if not path:
        raise malformed("an image", image, "a path, a URL, bytes or an image")
    if image_folder is None or path.startswith(WEB) or is_inline(path):
        return path
    return str(Path(image_folder) / path)


def is_inline(image: Any) -> bool:
    """Whether a text is an image itself, as a data URI or in base64, and no path."""
    # Imported late: whoever reads samples alone should not wait for torch.
    from modeling_langbridge import image_opening

    return image_opening.is_inline(image)


def path_of(image: Any) -> str | None:
    """Where an image lies, also one of datasets' `{"bytes", "path"}`."""
    path = image.get("path") if isinstance(image, dict) else image
    return os.fspath(path) if isinstance(path, str | Path) else None


def is_image_file(name: str) -> bool:
    return name.rsplit(".", 1)[-1].lower() in IMAGE_SUFFIXES

# SPDX-License-Identifier: Apache-2.0
"""The photos that the demo shows: the user's, or those that installed packages carry."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from modeling_langbridge.image_opening import open_image


# Package: photos in it, by their paths.
CARRIED = {
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],
    "gradio": [f"media_assets/images/{name}.jpg" for name in ("lion", "cheetah", "cheetah1", "tower")],
}


def find_photos(named: Sequence[Path] | None = None) -> list[Path]:
    """
    The photos to show, each of which can be opened.

    Args:
        named (`Sequence[Path]`, *optional*): The user's. When left out, those of `CARRIED` whose package is installed.

    Raises:
        `ImageError`: one does not exist or cannot be opened.
        `ValueError`: one is named twice, or no package with photos is installed.
    """
    photos = carried_photos() if named is None else list(named)
    if not photos:
        raise ValueError(f"None of {' and '.join(CARRIED)} is installed here, whose photos are shown: name --photos.")
    files = [photo.resolve() for photo in photos]
    for photo, file in zip(photos, files, strict=True):
        if files.count(file) > 1:
            raise ValueError(f"--photos names {photo} twice: name it once.")
        open_image(photo)
    return photos


def carried_photos() -> list[Path]:
    """The photos of `CARRIED` that are on this machine."""
    found = {package: find_spec(package) for package in CARRIED}
    paths = [Path(spec.origin).parent / path for package, spec in found.items() if spec for path in CARRIED[package]]
    return [path for path in paths if path.is_file()]

# SPDX-License-Identifier: Apache-2.0
"""The features of a frozen vision tower in files that are read by memory map, computed once per image."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from modeling_langbridge.utils.files import atomic_file

from .faults import SampleError
from .feature_key import KEY_BYTES, hash_content, read_content
from .image_places import is_inline, path_of


SHARD_BYTES = 2**27  # of features in a file
SHARD_SECONDS = 60.0  # of computing in a file: what a killed process loses at most
ABANDONED_SECONDS = 3600.0  # after which an unfinished file is a killed process's


class FeatureCache:
    """
    Vision features of images, `(tokens, d_v)` each, as an adapter reads them.

    They lie in a folder of their own inside `folder`, named for all that they depend on beside the images, in
    safetensors files that appear whole or not at all. Several processes may read and add at once. An image is known by
    its content, so that a file that has changed is another image, and the same one under two names is stored once.

    Features are kept in half precision: in bfloat16 where the tower gives that, or where they are beyond float16, else
    in float16.

    Args:
        folder (`str` or `os.PathLike`):
            Where the features of any number of towers are kept.
        identity (`Mapping[str, str]`):
            From [`~trainer.data.feature_key.describe_features`].

    Raises:
        `ValueError`: the folder is a file, or a file in it is damaged.
    """

    def __init__(self, folder: str | os.PathLike, identity: Mapping[str, str]) -> None:
        self.identity = dict(identity)
        digest = hashlib.blake2b(json.dumps(self.identity, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.folder = Path(folder).expanduser() / f"{self.identity['tower']}-{digest}"
        if self.folder.parent.exists() and not self.folder.parent.is_dir():
            raise ValueError(f"{folder} is a file, but features are kept in a folder: name another place.")
        self.shards: list[Path] = []
        self.places: dict[bytes, tuple[int, int]] = {}  # of each image, by its key: the shard and the row in it
        self.mapped: dict[int, torch.Tensor] = {}  # of each shard that was read, the features
        self.shape: tuple[int, int] | None = None  # (tokens, d_v)
        self.unsaved: dict[bytes, torch.Tensor] = {}
        self.written: list[Path] = []  # by this process
        self.saved_at = time.monotonic()
        self.refresh()

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    def __getstate__(self) -> dict[str, Any]:
        """What worker processes get: they map the files themselves."""
        return {**self.__dict__, "mapped": {}}

    def refresh(self) -> None:
        """Takes up the files that were added since, by other processes as well."""
        known = set(self.shards)
        for path in sorted(self.folder.glob("features-*.safetensors")):
            if path in known:
                continue
            try:
                with safe_open(path, framework="pt") as file:
                    keys = file.get_tensor("keys").numpy().tobytes()
                    self.shape = tuple(file.get_slice("features").get_shape()[1:])
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged, or no file of image features ({error}): remove it.") from error
            for row, start in enumerate(range(0, len(keys), KEY_BYTES)):
                self.places.setdefault(keys[start : start + KEY_BYTES], (len(self.shards), row))
            self.shards.append(path)

    def read(self, image: Any) -> torch.Tensor:
        """
        The features of an image `(tokens, d_v)`, of which the file's bytes are read and nothing is decoded.

        Args:
            image: What [`~trainer.data.images.open_image`] opens.

        Raises:
            [`SampleError`]: the cache does not have them, or the image is missing.
        """
        place = self.places.get(hash_content(read_content(image)))
        if place is None:
            path = path_of(image)
            name = "an image" if path is None or is_inline(path) else f"the image {path[:200]}"
            raise SampleError(
                "features missing",
                f"{name} is not in the feature cache: it has changed since the run began, or is of other data",
            )
        shard, row = place
        if shard not in self.mapped:
            with safe_open(self.shards[shard], framework="pt") as file:
                self.mapped[shard] = file.get_tensor("features")  # mapped: only what is used is read
        return self.mapped[shard][row]

    def stack(self, features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What several images, or none, are for a model: `pixel_values`, `(images, tokens, d_v)`."""
        return {"pixel_values": torch.stack(features) if features else torch.zeros(0, *self.shape)}

    def add(self, keys: Iterable[bytes], features: torch.Tensor) -> None:
        """
        Adds images by their keys, with their features `(images, tokens, d_v)`; a file is written when enough came.

        Raises:
            `ValueError`: features are not finite.
            `OSError`: they cannot be written.
        """
        if not features.isfinite().all():
            raise ValueError(
                f"{self.identity['tower']} gives features that are not finite (NaN or infinity): use it without "
                "`feature_cache`, to learn of which samples."
            )
        self.shape = tuple(features.shape[1:])
        self.unsaved.update(zip(keys, features.cpu().unbind(), strict=True))
        if self.unsaved_bytes >= SHARD_BYTES or time.monotonic() - self.saved_at > SHARD_SECONDS:
            self.save()

    @property
    def unsaved_bytes(self) -> int:
        return len(self.unsaved) * self.bytes_per_image

    @property
    def bytes_per_image(self) -> int:
        """What an image takes on the disk."""
        tokens, width = self.shape
        return 2 * tokens * width + KEY_BYTES

    def save(self) -> None:
        """Writes what was added since the last file to one of its own, atomically."""
        self.saved_at = time.monotonic()
        if not self.unsaved:
            return
        keys = b"".join(self.unsaved)
        with torch.autocast("cpu", enabled=False):  # it has no rule for a stack in float16
            features = to_half(torch.stack(list(self.unsaved.values())))
        tensors = {
            "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, KEY_BYTES),
            "features": features,
        }
        path = self.folder / f"features-{hashlib.blake2b(keys, digest_size=8).hexdigest()}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.shards:  # for people
                with atomic_file(self.folder / "identity.json") as unfinished:
                    unfinished.write_text(json.dumps(self.identity, indent=2) + "\n", encoding="utf-8")
            with atomic_file(path) as unfinished:
                save_file(tensors, unfinished)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"The features could not be written to {self.folder} ({error}): name another folder."
            ) from error
        self.unsaved = {}
        self.written.append(path)

    def remove_written(self) -> None:
        """Removes what this process has written; the cache cannot be used any more."""
        for path in self.written:
            path.unlink(missing_ok=True)

    def remove_abandoned(self) -> None:
        """Removes the unfinished files of processes that were killed."""
        for path in self.folder.glob(".*.features-*.safetensors"):
            if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                path.unlink(missing_ok=True)

    def require_room(self, images: int) -> None:
        """Raises `OSError` where the disk has no room for so many more images."""
        above = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        needed, free = images * self.bytes_per_image, shutil.disk_usage(above).free
        if needed > free:
            raise OSError(
                f"The features of {images:,} images need {needed / 1e9:,.1f} GB, but {self.folder.parent} has "
                f"{free / 1e9:,.1f} GB left: name another `feature_cache` folder, or leave it out."
            )


def to_half(features: torch.Tensor) -> torch.Tensor:
    """Features in 16 bits: in bfloat16 where they are, or where float16 cannot hold them, else in float16."""
    if features.dtype == torch.bfloat16:
        return features
    half = features.half()
    return half if half.isfinite().all() else features.bfloat16()

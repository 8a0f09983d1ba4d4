# SPDX-License-Identifier: Apache-2.0
"""Weights in safetensors files and in memory: which tensors there are, of what shapes, and whether all are finite."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from .files import read_json


def find_weights(name: str | Path, revision: str | None = None) -> list[Path]:
    """
    The safetensors files of a model, downloaded from the Hub where necessary.

    Args:
        name (`str` or `Path`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Returns:
        `list[Path]`: one file, the shards that an index names, or none where the model is saved in another format.

    Raises:
        `ValueError`: the index is damaged, or names a file that is missing.
    """

    def find(file: str) -> Path | None:
        path = cached_file(str(name), file, revision=revision, _raise_exceptions_for_missing_entries=False)
        return None if path is None else Path(path)

    if (single := find(SAFE_WEIGHTS_NAME)) is not None:
        return [single]
    if (path := find(SAFE_WEIGHTS_INDEX_NAME)) is None:
        return []
    index = read_json(path)
    try:
        shards = sorted(set(index["weight_map"].values()))
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{path} is damaged, it has no `weight_map`: save or download the model again.") from None
    found = {shard: find(shard) for shard in shards}
    if missing := [shard for shard, file in found.items() if file is None]:
        raise ValueError(f"There is no {missing[0]} in {name}, which its index names: save or download it again.")
    return list(found.values())


@contextmanager
def opened(path: Path) -> Iterator[safe_open]:
    """A safetensors file, whose tensors are read only when they are asked for.

    Raises:
        `ValueError`: the file is damaged or cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): save or download it again.") from error


def read_shapes(files: Iterable[Path]) -> dict[str, list[int]]:
    """The shapes of all tensors by name, from the files' headers alone.

    Raises:
        `ValueError`: a file is damaged or cut short.
    """
    shapes = {}
    for path in files:
        with opened(path) as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return shapes


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, empty where it has none."""
    with opened(path) as file:
        return file.metadata() or {}


def require_finite_files(files: Iterable[Path]) -> None:
    """
    Reads the weights once, one tensor at a time. What loading then reads is in the system's cache.

    Raises:
        `ValueError`: one of them holds NaN or infinity; the message names the file and the tensor.
    """
    for path in files:
        with opened(path) as file:
            require_finite(((name, file.get_tensor(name)) for name in file.keys()), path)  # noqa: SIM118


def require_finite(tensors: Iterable[tuple[str, torch.Tensor]], what: str | Path) -> None:
    """
    Refuses weights that are no numbers.

    Args:
        tensors (`Iterable[tuple[str, torch.Tensor]]`): Names and tensors. Quantised tensors are not looked at.
        what (`str` or `Path`): What they belong to, for the message.

    Raises:
        `ValueError`: one of them holds NaN or infinity.
    """
    for name, tensor in tensors:
        if not tensor.is_floating_point() or tensor.itemsize == 1 or tensor.is_meta or not tensor.numel():
            continue
        # Unlike `isfinite().all()`, makes no mask as large as the tensor, and is 20 times as fast.
        if not torch.stack(torch.aminmax(tensor.detach())).isfinite().all():
            raise ValueError(
                f"`{name}` in {what} holds values that are not finite (NaN or infinity), so the model is of no use: "
                "train it again with a lower learning rate, or go back to an earlier checkpoint."
            )

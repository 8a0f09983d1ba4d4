# SPDX-License-Identifier: Apache-2.0
"""
The features of a frozen vision tower, computed once per image.

The cache stands where the tower stood, behind the real processor and collator: every pass over the photos after the
first, and every further adapter, costs nothing for the tower.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_langbridge.utils.files import atomic_file


SECONDS_BETWEEN_SAVES = 10.0
# What a configuration says beside what the tower computes: where it comes from, how it is stored, and the width, which
# the weights have as well, and which a LangBridge adds where it is missing.
NOT_OF_THE_FUNCTION = ("_name_or_path", "transformers_version", "architectures", "dtype", "hidden_size")


class FeatureCache(nn.Module):
    """
    A frozen vision tower that keeps in memory, for each image, the features that an adapter reads.

    An image is recognised by the hash of its pixel values, which depend on the image processor as well, and of the
    precision that the tower computes in. Its features are kept in memory in half precision (125 kB for 49 tokens of
    width 1280, 1.2 MB for CLIP-L/336's 577 of 1024). The tower must treat each image of a batch alone, as towers in
    eval mode do.

    Args:
        tower ([`PreTrainedModel`]):
            Any vision tower of transformers, with token states or a feature map as its last hidden state. It is put
            into eval mode and gets no gradient.
        vision_feature_layer (`int`, *optional*, defaults to -1):
            Which hidden states of a tower of tokens are kept; a map's last ones always are.
        folder (`str` or `os.PathLike`, *optional*):
            Where features are kept on disk, a file for every few seconds of the tower's work: those that are there are
            read, and new ones added as they come, by several processes as well. In memory alone when left out.

    Raises:
        `ValueError`: the folder holds the features of another tower, or something else.
    """

    def __init__(
        self, tower: PreTrainedModel, vision_feature_layer: int = -1, folder: str | os.PathLike | None = None
    ) -> None:
        super().__init__()
        self.tower = tower.eval().requires_grad_(False)
        self.layer = vision_feature_layer
        self.config = tower.config
        self.features: dict[bytes, torch.Tensor] = {}
        self.folder = None if folder is None else Path(folder)
        self.unsaved: list[bytes] = []
        self.saved_at = time.monotonic()
        if self.folder is not None:
            self._load(self.folder)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def device(self) -> torch.device:
        return self.tower.device

    @property
    def dtype(self) -> torch.dtype:
        return self.tower.dtype

    def train(self, mode: bool = True) -> "FeatureCache":
        """The tower stays in eval mode whatever the model around it does: batch statistics would spoil the cache."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        Gives what the tower gives, from memory where it can.

        Args:
            pixel_values (`torch.Tensor` of shape `(images, channels, height, width)`):
                As the image processor makes them.

        Raises:
            `ValueError`: features are not finite in half precision.

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state`, a map or the states of the layer that is kept, and in
            `hidden_states`, under that layer's number, tokens `(images, tokens, d_v)`, for models such as LLaVA that
            read them: there a feature map is flattened row by row.
        """
        device = pixel_values.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else pixel_values.dtype
        keys = [
            hashlib.blake2b(image.numpy(), digest_size=16, key=str(precision).encode()).digest()
            for image in pixel_values.float().cpu()
        ]
        new = [i for i, key in enumerate(keys) if key not in self.features]
        if new:
            outputs = self.tower(pixel_values[new], output_hidden_states=True, return_dict=True)
            is_map = outputs.last_hidden_state.ndim == 4
            states = outputs.last_hidden_state if is_map else outputs.hidden_states[self.layer]
            states = states.half().cpu()
            if not states.isfinite().all():
                raise ValueError(
                    f"{type(self.tower).__name__} gives features that are not finite, or beyond half precision, in "
                    "which they are kept: use this tower without a feature cache."
                )
            # Each image gets memory of its own: a view would keep the whole batch alive.
            self.features.update((keys[i], state.clone()) for i, state in zip(new, states, strict=True))
            self.unsaved += dict.fromkeys(keys[i] for i in new)
        if self.folder is not None and time.monotonic() - self.saved_at > SECONDS_BETWEEN_SAVES:
            self.save()
        # Converted before they are stacked: autocast to bfloat16 has no rule for a stack in float16.
        states = torch.stack([self.features[key].to(pixel_values.device, pixel_values.dtype) for key in keys])
        tokens = states.flatten(2).transpose(1, 2) if states.ndim == 4 else states  # (images, tokens, d_v)
        return BaseModelOutputWithPooling(last_hidden_state=states, hidden_states={self.layer: tokens})

    @contextmanager
    def standing_in_for_tower(self, model: nn.Module) -> Iterator[None]:
        """
        Puts the cache in place of `model.vision_tower` for a block, and the model's own tower back after it, so that
        the model is saved as it was.
        """
        tower = model.vision_tower
        model.vision_tower = self
        try:
            yield
        finally:
            model.vision_tower = tower

    def save(self) -> None:
        """
        Writes the features that are not in the folder yet to a file of their own, atomically.

        Raises:
            `OSError`: they cannot be written.
        """
        self.saved_at = time.monotonic()
        if not self.unsaved:
            return
        keys = b"".join(self.unsaved)
        path = self.folder / f"features-{hashlib.blake2b(keys, digest_size=8).hexdigest()}.safetensors"
        with torch.autocast("cpu", enabled=False):  # it has no rule for a stack in float16
            features = torch.stack([self.features[key] for key in self.unsaved])
        tensors = {
            "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, 16),
            "features": features,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as unfinished:
                save_file(tensors, unfinished, metadata=self.identity)
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"The features could not be written to {self.folder} ({error}): name another folder."
            ) from error
        self.unsaved = []

    @cached_property
    def identity(self) -> dict[str, str]:
        """What the features of an image depend on beside its pixel values."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.tower.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        config = self.config.to_diff_dict()
        settings = {name: value for name, value in config.items() if name not in NOT_OF_THE_FUNCTION}
        return {
            "tower": type(self.tower).__name__,
            "settings": json.dumps(settings, sort_keys=True),
            "weights": digest.hexdigest(),
            "dtype": str(self.tower.dtype).removeprefix("torch."),
            "layer": str(self.layer),
        }

    def _load(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file, but features are kept in a folder: name another place.")
        paths = sorted(folder.glob("features-*.safetensors")) if folder.exists() else []
        if not paths and folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds something else than image features: name another folder.")
        for path in paths:
            try:
                with safe_open(path, framework="pt") as file:
                    found = file.metadata() or {}
                    keys, features = file.get_tensor("keys"), file.get_tensor("features")
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged, or no file of image features ({error}): remove it.") from error
            if differ := [name for name, value in self.identity.items() if found.get(name) != value]:
                raise ValueError(
                    f"{folder} holds the features of another tower (it differs in its {', '.join(differ)}): name "
                    "another folder, or remove this one."
                )
            self.features.update((bytes(key), state) for key, state in zip(keys.numpy(), features, strict=True))

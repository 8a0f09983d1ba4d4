# SPDX-License-Identifier: Apache-2.0
"""
The features of a frozen vision tower, computed once per image.

The cache stands where the tower stood, behind the real processor and collator: every pass over the photos after the
first, and every further adapter, costs nothing for the tower.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_langbridge.utils.files import atomic_file


class FeatureCache(nn.Module):
    """
    A frozen vision tower that keeps in memory, for each image, the features that an adapter reads.

    An image is recognised by the hash of its pixel values; its features are kept in memory in half precision (125 kB
    for 49 tokens of width 1280, 1.2 MB for CLIP-L/336's 577 of 1024). The tower must treat each image of a batch
    alone, as towers in eval mode do.

    Args:
        tower ([`PreTrainedModel`]):
            Any vision tower of transformers, with token states or a feature map as its last hidden state. It is put
            into eval mode and gets no gradient.
        vision_feature_layer (`int`, *optional*, defaults to -1):
            Which hidden states of a tower of tokens are kept; a map's last ones always are.
    """

    def __init__(self, tower: PreTrainedModel, vision_feature_layer: int = -1) -> None:
        super().__init__()
        self.tower = tower.eval().requires_grad_(False)
        self.layer = vision_feature_layer
        self.config = tower.config
        self.features: dict[bytes, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.features)

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

        Returns:
            [`BaseModelOutputWithPooling`]: `last_hidden_state`, a map or the states of the layer that is kept, and in
            `hidden_states`, under that layer's number, tokens `(images, tokens, d_v)`, for models such as LLaVA that
            read them: there a feature map is flattened row by row.
        """
        keys = [hashlib.blake2b(image.numpy(), digest_size=16).digest() for image in pixel_values.float().cpu()]
        new = [i for i, key in enumerate(keys) if key not in self.features]
        if new:
            outputs = self.tower(pixel_values[new], output_hidden_states=True, return_dict=True)
            is_map = outputs.last_hidden_state.ndim == 4
            states = outputs.last_hidden_state if is_map else outputs.hidden_states[self.layer]
            # Each image gets memory of its own: a view would keep the whole batch alive in full precision.
            self.features.update((keys[i], state.half().cpu().clone()) for i, state in zip(new, states, strict=True))
        states = torch.stack([self.features[key] for key in keys]).to(pixel_values.device, pixel_values.dtype)
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

    def save(self, path: str | os.PathLike) -> None:
        """Writes all features to one safetensors file, atomically."""
        if not self.features:
            raise ValueError(f"There are no features to save to {path}: run the tower on some images first.")
        keys = torch.frombuffer(bytearray(b"".join(self.features)), dtype=torch.uint8).view(-1, 16)
        with atomic_file(path) as unfinished:
            save_file({"keys": keys, "features": torch.stack(list(self.features.values()))}, unfinished)

    def load(self, path: str | os.PathLike) -> None:
        """Adds the features of a file that `save` wrote."""
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != {"keys", "features"}:
                raise ValueError(f"{path} holds no image features: give a file that FeatureCache.save wrote.")
            keys, features = file.get_tensor("keys"), file.get_tensor("features")
        self.features.update((bytes(key), state) for key, state in zip(keys.numpy(), features, strict=True))

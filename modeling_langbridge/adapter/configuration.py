# SPDX-License-Identifier: Apache-2.0
"""The shape of an adapter and what it reads: its `config.json`."""

from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig

from ..configuration_langbridge import LangBridgeConfig
from ..configuration_langbridge_next import LangBridgeNextConfig
from ..modeling_langbridge import LangBridgeMultiModalProjector
from ..utils.files import first_line, read_json
from ..vocabulary_head import LangBridgeVocabularyHead


@strict
class LangBridgeAdapterConfig(PreTrainedConfig):
    r"""
    The shape of an adapter, and what it reads: models that agree in all of this can exchange their adapters.

    The fields from `projector_hidden_size` to `vision_feature_select_strategy` are those of [`LangBridgeConfig`].

    Args:
        vision_feature_size (`int`): Width of the features that the projector reads, over all layers.
        vision_model_type (`str`): Type of the vision tower.
        image_newline (`bool`, *optional*, defaults to `False`): Whether it has LangBridge-NeXT's newline.
        pool_patches (`int`, *optional*, defaults to 1): That of its model, which another may change.
    """

    model_type = "langbridge_adapter"

    projector_hidden_size: int = 5120
    bridge_vocab_size: int = 19200
    coefficient_activation: Literal["linear", "softmax", "gated_softmax"] = "linear"
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True
    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: str = "default"
    vision_feature_size: int = 1024
    vision_model_type: str = "clip_vision_model"
    image_newline: bool = False
    pool_patches: int = 1

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        # Called by the Auto classes alone, when someone takes an adapter for a model.
        raise ValueError(
            "This is a LangBridge adapter alone, without a vision tower and a language model: join it with both by "
            "`LangBridgeAdapter.from_pretrained(this).join(vision, text)` of `modeling_langbridge`, or by "
            "scripts/transfer.py."
        )

    @classmethod
    def from_model_config(cls, config: LangBridgeConfig) -> "LangBridgeAdapterConfig":
        """The shape of the adapter of a model of this configuration."""
        layers = config.vision_feature_layer
        of_the_tower = {
            "vision_feature_size": config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers)),
            "vision_model_type": config.vision_config.model_type,
        }
        is_next = isinstance(config, LangBridgeNextConfig)
        image_newline = is_next and config.words_per_image is None
        shape = {name: getattr(config, name) for name in SHAPE if name not in of_the_tower}
        return cls(**of_the_tower, **shape, image_newline=image_newline, pool_patches=config.pool_patches)

    def to_shape(self) -> dict[str, Any]:
        """The fields in which a model and its adapter must agree, without transformers' own."""
        return {name: getattr(self, name) for name in SHAPE}

    def to_content(self) -> dict[str, Any]:
        """What `config.json` holds."""
        # Only where they are not the default: earlier versions know neither.
        beside = {name: getattr(self, name) for name in BESIDE if getattr(self, name) != getattr(type(self), name)}
        return {"model_type": self.model_type, **self.to_shape(), **beside}

    def weight_shapes(self) -> dict[str, list[int]]:
        """The shapes of the weights, from modules on the meta device, without weights or work."""
        shape = {name: value for name, value in self.to_shape().items() if not name.startswith("vision_")}
        config = LangBridgeConfig(
            vision_config=CLIPVisionConfig(hidden_size=self.vision_feature_size, num_attention_heads=1),
            text_config=LlamaConfig(vocab_size=self.bridge_vocab_size),
            **shape,
        )
        try:
            with torch.device("meta"):
                parts = {
                    "multi_modal_projector": LangBridgeMultiModalProjector(config),
                    "vocabulary_head": LangBridgeVocabularyHead(config),
                }
        except RuntimeError as error:  # more bytes than a number can count
            raise ValueError(f"An adapter of these sizes cannot be made ({first_line(error)}).") from error
        shapes = shapes_of(dict(torch.nn.ModuleDict(parts).named_parameters()))
        return {**shapes, NEWLINE: [self.projector_hidden_size]} if self.image_newline else shapes


NEWLINE = "image_newline"
BESIDE = (NEWLINE, "pool_patches")
SHAPE = tuple(name for name in LangBridgeAdapterConfig.__annotations__ if name not in ("model_type", *BESIDE))


def read_config(path: Path) -> LangBridgeAdapterConfig:
    """Reads an adapter's `config.json`; raises `ValueError` where it is damaged or not an adapter's."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged, it must be a JSON object with the fields {', '.join(SHAPE)}.")
    if content.pop("model_type", None) != LangBridgeAdapterConfig.model_type:
        raise ValueError(f"{path} does not belong to an adapter alone: name the folder of an adapter.")
    if missing := [name for name in SHAPE if name not in content]:
        raise ValueError(f"{path} is damaged, it lacks the fields {', '.join(missing)}.")
    if unknown := [name for name in content if name not in (*SHAPE, *BESIDE)]:
        raise ValueError(f"{path} has fields unknown to this version, {', '.join(unknown)}: update LangBridge.")
    try:
        return LangBridgeAdapterConfig(**content)
    except StrictDataclassError as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}.") from None


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def differences(adapter: dict, other: dict, name: str) -> str:
    """The first few entries in which the adapter differs from another, called `name`; empty where they agree."""
    pairs = {key: (adapter.get(key, "missing"), other.get(key, "missing")) for key in {**other, **adapter}}
    wrong = [f"`{key}` is {a} in the adapter but {b} in {name}" for key, (a, b) in pairs.items() if a != b]
    return ", ".join(wrong[:3])

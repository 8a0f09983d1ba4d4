# SPDX-License-Identifier: Apache-2.0
"""What vision features are known by: an image's content, and everything between the image and the adapter."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL
import torch
import transformers
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

import modeling_langbridge

from .image_places import file_of
from .images import open_image
from .reader_version import hash_code


KEY_BYTES = 16
# What a configuration says beside what is computed: where it comes from, how it is stored, a classifier's labels, and
# the tower's width, which the weights have as well, and which a LangBridge adds where it is missing.
NOT_OF_THE_TOWER = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "hidden_size"),
    *("id2label", "label2id", "num_labels"),
)
NOT_OF_THE_PROCESSOR = ("processor_class", "auto_map", "_name_or_path", "image_processor_type")
# The code of this project that stands between an image and its features.
CODE = ("image_opening.py", "modeling_langbridge.py")


def read_content(image: Any) -> Any:
    """
    An image in memory, for [`hash_content`] and [`~trainer.data.images.open_image`]: the bytes of a file with its
    name, bytes as they are, and of anything else the pixels.

    Raises:
        [`SampleError`]: the image is missing or, where its pixels are wanted, undecodable; the message names it.
    """
    content = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(content, bytes):
        return image
    path = file_of(image)
    if path is not None and os.path.isfile(path):  # a named pipe would be waited for
        with suppress(OSError):
            return {"bytes": Path(path).read_bytes(), "path": path}
    return open_image(image)


def hash_content(content: Any) -> bytes:
    """The key of an image that [`read_content`] gave, 16 bytes."""
    encoded = content.get("bytes") if isinstance(content, dict) else content
    if isinstance(encoded, bytes):
        return hashlib.blake2b(encoded, digest_size=KEY_BYTES, person=b"file").digest()
    size = f"{content.width} {content.height}".encode()
    return hashlib.blake2b(content.tobytes(), digest_size=KEY_BYTES, person=b"pixels", salt=size).digest()


def describe_features(
    model: PreTrainedModel, image_processor: BaseImageProcessor, mixed_precision: str = "no"
) -> dict[str, str]:
    """
    All that the features of an image depend on beside the image: where any of it differs, they are others.

    Args:
        model (`LangBridgeForConditionalGeneration`): Its tower, and what it reads of the tower.
        image_processor (`BaseImageProcessor`): The model's.
        mixed_precision (`str`, *optional*, defaults to `"no"`): What the tower multiplies in, as of accelerate.
    """
    tower, config = model.model.vision_tower, model.config
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tower.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    code = hash_code(Path(modeling_langbridge.__file__).parent / name for name in CODE)
    return {
        "tower": type(tower).__name__,
        "settings": without(tower.config.to_diff_dict(), NOT_OF_THE_TOWER),
        "weights": weights.hexdigest(),
        "dtype": str(tower.dtype).removeprefix("torch."),
        "mixed_precision": mixed_precision,
        "vision_feature_layer": json.dumps(config.vision_feature_layer),
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "pool_patches": str(config.pool_patches),
        "image_processor": type(image_processor).__name__,
        "image_processor_settings": without(image_processor.to_dict(), NOT_OF_THE_PROCESSOR),
        "code": f"transformers {transformers.__version__}, Pillow {PIL.__version__}, {code}",
    }


def without(settings: dict[str, Any], names: tuple[str, ...]) -> str:
    kept = {name: value for name, value in settings.items() if name not in names}
    return json.dumps(kept, sort_keys=True, default=str)

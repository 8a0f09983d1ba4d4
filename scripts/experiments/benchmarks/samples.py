# SPDX-License-Identifier: Apache-2.0
"""Samples made on the spot, of photographs' size, and the processor that reads them."""

import json
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModel

from experiments.small_language_model import train_tokenizer
from modeling_langbridge import LangBridgeProcessor

from .shapes import Shapes


NUM_PHOTOS = 64
CAPTION = "a dog runs over the green grass and jumps after a ball"


def write_samples(folder: Path, rows: int, size: tuple[int, int] = (640, 480)) -> Path:
    """A json of captions and conversations, and JPEG photos of this width and height, which rows share."""
    for number in range(NUM_PHOTOS):
        coarse = torch.rand(12, 16, 3, generator=torch.Generator().manual_seed(number)).mul(255).byte()
        photo = Image.fromarray(coarse.numpy()).resize(size, Image.Resampling.BICUBIC)
        photo.save(folder / f"{number}.jpg", quality=90)
    samples = [
        {"id": str(number), "image": f"{number % NUM_PHOTOS}.jpg", "caption": " ".join([CAPTION] * (1 + number % 4))}
        for number in range(rows)
    ]
    path = folder / f"{rows}_samples.json"
    path.write_text(json.dumps(samples), encoding="utf-8")
    return path


def make_processor(shapes: Shapes) -> LangBridgeProcessor:
    """A processor for CLIP's images of these shapes, with a tokenizer of the captions' words."""
    with torch.device("meta"):
        tower = CLIPVisionModel(shapes.vision())
    size = tower.config.image_size
    image_processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return LangBridgeProcessor.from_vision_text_pretrained(
        tower, "", image_processor=image_processor, tokenizer=train_tokenizer([CAPTION], 400, "byte_level")
    )

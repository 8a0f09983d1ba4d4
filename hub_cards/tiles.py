# SPDX-License-Identifier: Apache-2.0
"""What a card says of a model that reads images in tiles, a LangBridge-NeXT or a LLaVA-NeXT."""

import math
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoImageProcessor, LlavaNextConfig


@dataclass
class Tiles:
    """
    Args:
        side (`int`): Height and width of a tile in pixels.
        resolutions (`list[tuple[int, int]]`): Widths and heights, in pixels, that an image may be brought to.
        whole (`int`): Visual tokens of the whole image, which are read before those of its tiles.
        most (`int`): The largest number of visual tokens of an image, with its newlines. Padding has none.
    """

    side: int
    resolutions: list[tuple[int, int]]
    whole: int
    most: int


def read_tiles(folder: Path, config: LlavaNextConfig) -> Tiles:
    """
    Reads how a model cuts images.

    Args:
        folder (`Path`): The model's folder, with its image processor.
        config (`LlavaNextConfig`): Its configuration.

    Raises:
        `ValueError`: the folder has no image processor.
    """
    try:
        side = AutoImageProcessor.from_pretrained(folder).crop_size["height"]
    except OSError as error:
        raise ValueError(f"There is no image processor in {folder}: `processor.save_pretrained` writes it.") from error
    whole = config.image_seq_length
    length = math.isqrt(whole)  # patches of a tile's row
    resolutions = [(width, height) for height, width in config.image_grid_pinpoints]
    rows_and_columns = [(height // side * length, width // side * length) for width, height in resolutions]
    most = whole + max(rows * (columns + 1) for rows, columns in rows_and_columns)
    return Tiles(side, resolutions, whole, most)

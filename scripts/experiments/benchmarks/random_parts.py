# SPDX-License-Identifier: Apache-2.0
"""A vision tower and a language model of given shapes with random weights, as folders that train.py takes."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel

from modeling_langbridge import SharedVocabulary

from .shapes import PAIRS, Shapes


def find_data(data: Path | None) -> Path:
    """The folder of `--data`; raises `ValueError` where none is named or it lacks what is needed."""
    if data is None:
        raise ValueError("Give --data, the folder with the photos and tokenizers, or set LANGBRIDGE_DATA to it.")
    for name in ("tokenizers", "llava_format", "flickr8k"):
        if not Path(data, name).is_dir():
            raise ValueError(f"--data {data} holds no folder {name}: name the folder that has it.")
    return Path(data)


def write_tiny_parts(shapes: Shapes, data: Path, folder: Path) -> dict[str, str]:
    """Parts as small as can be of the same kind, tokenizer and image size, see `write_parts`."""
    return write_parts(replace(shapes, scale=0.125, layers=1), data, folder)


def write_parts(shapes: Shapes, data: Path, folder: Path, dtype: str = "bfloat16") -> dict[str, str]:
    """
    Writes parts of these shapes: the tower in float32, as CLIP's is, the language model in `dtype`. The vocabulary is
    that of a real tokenizer, whatever the scale.

    Args:
        shapes (`Shapes`): of the parts.
        data (`Path`): the folder with `tokenizers` (`$LANGBRIDGE_DATA`).
        folder (`Path`): what they are written to.
        dtype (`str`, *optional*, defaults to `"bfloat16"`): of the language model, which Qwen 2's and SmolLM2's are.

    Returns:
        `dict[str, str]`: the options of train.py that make a model of them, as wide as the language model.
    """
    pair, vision = PAIRS[shapes.pair], shapes.vision()
    text = replace(shapes, vocab_size=pair.text["vocab_size"]).text()
    torch.manual_seed(0)
    CLIPVisionModel(vision).save_pretrained(folder / "tower")
    side = vision.image_size
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder / "tower"
    )
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / pair.tokenizer)
    AutoModelForCausalLM.from_config(text, dtype=getattr(torch, dtype)).save_pretrained(folder / "language_model")
    tokenizer.save_pretrained(folder / "language_model")
    SharedVocabulary.build([tokenizer], ["a dog runs on the grass"], pair.words).save(folder / "words.json")
    return {
        "vision_tower": str(folder / "tower"),
        "language_model": str(folder / "language_model"),
        "vocabulary": str(folder / "words.json"),
        "projector_hidden_size": str(text.hidden_size),
    }

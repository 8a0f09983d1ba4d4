# SPDX-License-Identifier: Apache-2.0
"""A vision tower and a language model of given shapes with random weights, as folders that train.py takes."""

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from modeling_langbridge import SharedVocabulary

from .models import Shapes


class Shape(NamedTuple):
    """The sizes of a model. `tokenizer` is a folder of `$LANGBRIDGE_DATA/tokenizers`, `words` is V."""

    vision: PreTrainedConfig
    text: PreTrainedConfig
    tokenizer: str
    words: int


PAPER = Shapes().parts()
CLIP_L_336, QWEN2_05B = PAPER["vision_config"], PAPER["text_config"]
QWEN2_7B = Qwen2Config(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
)
SMALL_TOWER = CLIPVisionConfig(
    hidden_size=384, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=6, image_size=224, patch_size=32
)
# SmolLM2-135M's layers, of which it has 30.
SMALL_TEXT = LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=6,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
)
SHAPES = {
    "small": Shape(SMALL_TOWER, SMALL_TEXT, "smollm", 8000),
    "qwen2_0.5b": Shape(CLIP_L_336, QWEN2_05B, "qwen2", 19200),
    "qwen2_7b": Shape(CLIP_L_336, QWEN2_7B, "qwen2", 19200),
}


def find_data(data: Path | None) -> Path:
    """The folder of `--data`; raises `ValueError` where none is named or it lacks what is needed."""
    if data is None:
        raise ValueError("Give --data, the folder with the photos and tokenizers, or set LANGBRIDGE_DATA to it.")
    for name in ("tokenizers", "llava_format", "flickr8k"):
        if not Path(data, name).is_dir():
            raise ValueError(f"--data {data} holds no folder {name}: name the folder that has it.")
    return Path(data)


def write_parts(name: str, data: Path, folder: Path, dtype: str = "bfloat16") -> dict[str, str]:
    """
    Writes the parts of one of `SHAPES`: the tower in float32, as CLIP's is, the language model in `dtype`.

    Args:
        name (`str`): the shape.
        data (`Path`): the folder with `tokenizers` (`$LANGBRIDGE_DATA`).
        folder (`Path`): what they are written to.
        dtype (`str`, *optional*, defaults to `"bfloat16"`): of the language model, which Qwen 2's and SmolLM2's are.

    Returns:
        `dict[str, str]`: the options of train.py that make a model of them, as wide as the language model.
    """
    shape = SHAPES[name]
    torch.manual_seed(0)
    CLIPVisionModel(shape.vision).save_pretrained(folder / "tower")
    side = shape.vision.image_size
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder / "tower"
    )
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / shape.tokenizer)
    AutoModelForCausalLM.from_config(shape.text, dtype=getattr(torch, dtype)).save_pretrained(
        folder / "language_model"
    )
    tokenizer.save_pretrained(folder / "language_model")
    SharedVocabulary.build([tokenizer], ["a dog runs on the grass"], shape.words).save(folder / "words.json")
    return {
        "vision_tower": str(folder / "tower"),
        "language_model": str(folder / "language_model"),
        "vocabulary": str(folder / "words.json"),
        "projector_hidden_size": str(shape.text.hidden_size),
    }

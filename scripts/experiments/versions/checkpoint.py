# SPDX-License-Identifier: Apache-2.0
"""The tiny random checkpoint, its parts and a photo, with which versions of transformers are tried."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

from experiments.small_language_model import train_tokenizer
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.utils.files import atomic_folder


TEXTS = ["what is in the picture? a brown dog runs on the green grass", "is there a red ball? a child in the water"]
NUM_WORDS = 60


def save_checkpoint(folder: Path) -> None:
    """Saves a random CLIP tower (`tower`), a random Qwen 2 (`language_model`), the LangBridge of both (`checkpoint`)
    and `photo.png` in a new folder."""
    torch.manual_seed(0)
    with atomic_folder(folder) as unfinished:
        image = Image.new("RGB", (48, 40), "white")
        ImageDraw.Draw(image).ellipse((5, 5, 30, 30), fill="red")
        image.save(unfinished / "photo.png")
        vision = CLIPVisionConfig(  # widths, here and below, are multiples of 64, for bitsandbytes' 4 bits on a CPU
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        tower, text = str(unfinished / "tower"), str(unfinished / "language_model")
        CLIPVisionModel(vision).save_pretrained(tower)
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tower)
        tokenizer = train_tokenizer(TEXTS, 300, "byte_level")
        language_model = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,  # with the usual 0.02 a photo would hardly change the logits
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
        )
        Qwen2ForCausalLM(language_model).save_pretrained(text)
        tokenizer.save_pretrained(text)
        processor = LangBridgeProcessor.from_vision_text_pretrained(tower, text)
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            tower, text, list(range(len(tokenizer) - NUM_WORDS, len(tokenizer))), processor, projector_hidden_size=64
        )
        for part in (model, processor):
            part.save_pretrained(unfinished / "checkpoint")

# SPDX-License-Identifier: Apache-2.0
"""Tiny random parts, made on the spot from real classes: language models, vision towers, a tokenizer, images."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    Dinov2Config,
    EfficientNetConfig,
    EfficientNetImageProcessorPil,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MobileNetV2Config,
    MobileNetV2ImageProcessorPil,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    ResNetConfig,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    ViTConfig,
    ViTImageProcessorPil,
)


SENTENCES = [
    "a brown dog runs on the green grass with a red ball",
    "two small children play in the blue water near a white boat",
    "the man in a black shirt rides a bike down the street",
    "what is in the picture? a woman and her cat on a bench",
] * 5

OTHER_SENTENCES = ["the children in the water play with a dog on a bench", "a cat, a man and a boat in the grass"] * 5

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

LANGUAGE_MODELS = {
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2.5": Qwen2Config(**SIZES, rms_norm_eps=1e-6, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True),
    "llama2": LlamaConfig(**SIZES),
    "llama3": LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
    "mistral": MistralConfig(**SIZES, sliding_window=8),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5),
    "gemma2_untied": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5, tie_word_embeddings=False),
    "gemma3": Gemma3TextConfig(**SIZES, head_dim=8),
    "phi": PhiConfig(**{**SIZES, "num_key_value_heads": 4}),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512),
    "gpt_neox": GPTNeoXConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4),
    "smollm": LlamaConfig(**SIZES, tie_word_embeddings=True),
}

VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
CONVOLUTIONS = {"hidden_sizes": [8, 8, 16, 20], "depths": [1, 1, 1, 1]}

# name: (configuration, image processor, visual tokens, their width)
VISION_TOWERS = {
    "clip": (CLIPVisionConfig(**VISION), CLIPImageProcessorPil, 16, 24),
    "whole_clip": (
        CLIPConfig(vision_config=VISION, text_config={"hidden_size": 16, "num_hidden_layers": 1}),
        CLIPImageProcessorPil,
        16,
        24,
    ),
    "siglip": (SiglipVisionConfig(**VISION), SiglipImageProcessorPil, 16, 24),
    "whole_siglip": (
        SiglipConfig(
            vision_config=VISION, text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        ),
        SiglipImageProcessorPil,
        16,
        24,
    ),
    "dinov2": (Dinov2Config(**VISION), BitImageProcessorPil, 16, 24),
    "vit": (ViTConfig(**VISION), ViTImageProcessorPil, 16, 24),
    "mobilenet_v2": (MobileNetV2Config(depth_multiplier=0.25, image_size=64), MobileNetV2ImageProcessorPil, 4, 1280),
    "convnext": (ConvNextConfig(**CONVOLUTIONS), ConvNextImageProcessorPil, 4, 20),
    "efficientnet": (
        EfficientNetConfig(  # by default, random batch norms let nothing through
            width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128, image_size=64, initializer_range=1.0
        ),
        EfficientNetImageProcessorPil,
        4,
        128,
    ),
    "resnet": (ResNetConfig(**CONVOLUTIONS, embedding_size=8), ConvNextImageProcessorPil, 4, 20),
}


def make_tokenizer(sentences=SENTENCES) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def save_language_model(name: str, folder: Path, vocab_size: int = 512) -> str:
    """Saves a tiny random language model with its tokenizer, as a user would have it."""
    torch.manual_seed(0)
    config = type(LANGUAGE_MODELS[name])(**{**LANGUAGE_MODELS[name].to_dict(), "vocab_size": vocab_size})
    tokenizer = make_tokenizer()
    config.eos_token_id = config.bos_token_id = tokenizer.eos_token_id
    config.pad_token_id = None
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_other_language_model(folder: Path) -> str:
    """Saves one of another family and width, with another tokenizer, which lacks some of the first one's words."""
    torch.manual_seed(1)
    config = GPT2Config(n_embd=48, n_layer=2, n_head=4, n_positions=512, vocab_size=600)
    tokenizer = make_tokenizer(OTHER_SENTENCES)
    config.eos_token_id = config.bos_token_id = tokenizer.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_vision_tower(name: str, folder: Path) -> str:
    """Saves a tiny random vision tower with its image processor."""
    torch.manual_seed(0)
    config, image_processor, *_ = VISION_TOWERS[name]
    side = 64 if name in ("mobilenet_v2", "convnext", "efficientnet", "resnet") else 32
    size = (
        {"shortest_edge": side}
        if name in ("clip", "whole_clip", "dinov2", "mobilenet_v2", "convnext", "resnet")
        else {"height": side, "width": side}
    )
    tower = AutoModel.from_config(config)
    for module in tower.modules():
        if isinstance(module, torch.nn.Conv2d):  # MobileNetV2's own random weights let nothing through
            torch.nn.init.kaiming_normal_(module.weight)
    tower.save_pretrained(folder)
    image_processor(size=size, crop_size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


def make_image(colour: str = "red", size: tuple[int, int] = (48, 40)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((5, 5, 30, 30), fill=colour)
    return image


def ask(image, text: str = "what is in the picture?") -> list[dict]:
    """One user turn with an image."""
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


@torch.no_grad()
def see(model, processor, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A model's visual tokens of two images, and the logits of prompts that hold them."""
    visual_tokens = torch.cat(model.get_image_features(pixel_values).pooler_output)
    placeholders = [processor.image_token_id] * processor.num_image_tokens
    input_ids = torch.tensor([[*placeholders, 100, 101, 102]] * 2)
    return visual_tokens, model(input_ids=input_ids, pixel_values=pixel_values).logits

# SPDX-License-Identifier: Apache-2.0
"""The published LangBridge code once more, for tests: its forward pass in plain torch, its files as its training left
them (LLaVA-1.5 and LLaVA-NeXT on transformers 4.37). Shares no code with modeling_langbridge.
"""

import json
import math
import re
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_parts import make_tokenizer
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
)


IMAGE = -200  # what the original puts into `input_ids` where an image stands
HIDDEN = 20
# As transformers 4.37 wrote them; the newer names of some fields are not in these files.
TEXT_CONFIG = {
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000.0,
    "torch_dtype": "float32",
    "transformers_version": "4.37.2",
    "use_cache": False,
    "vocab_size": 512,
}
FAMILIES = {
    "qwen": (
        Qwen2ForCausalLM,
        {
            "architectures": ["LlavaQwenForCausalLM"],
            "max_window_layers": 2,
            "model_type": "llava_qwen",
            "rope_scaling": None,
            "sliding_window": 64,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
        },
    ),
    "llama": (
        LlamaForCausalLM,
        {
            "architectures": ["LlavaLlamaForCausalLM"],
            "attention_bias": False,
            "model_type": "llava_llama",
            "pretraining_tp": 1,
            "rope_scaling": None,
            "tie_word_embeddings": False,
        },
    ),
}
LLAVA_CONFIG = {
    "freeze_mm_mlp_adapter": False,
    "image_aspect_ratio": "square",
    "mm_patch_merge_type": "flat",
    "mm_projector_lr": None,
    "mm_projector_type": "mm_vocab",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "tokenizer_model_max_length": 2048,
    "tokenizer_padding_side": "right",
    "tune_mm_mlp_adapter": False,
    "use_mm_proj": True,
}
# Widths and heights. A wide picture may have three tiles, a high one may not.
RESOLUTIONS = [[32, 64], [64, 32], [64, 64], [96, 32]]
LLAVA_NEXT_CONFIG = {
    "image_aspect_ratio": "anyres",
    "image_crop_resolution": 224,
    "image_grid_pinpoints": RESOLUTIONS,
    "image_split_resolution": 224,
    "mm_newline_position": "one_token",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_resampler_type": None,
    "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
    "mm_vision_tower_lr": 2e-6,
}


class OriginalLangBridge:
    """A tiny random model of the original's, all weights large enough that each matters.

    Args:
        family (`str`): `"qwen"`, whose output layer is tied, or `"llama"`, whose is not.
        vision_folder (`str`): A saved CLIP tower. The model's own has the same sizes and other weights.
        num_words (`int`): How many ordinary words the vocabulary has.
        strange_words (`list[str]`): Other tokens that it has, too.
        hidden (`int`): The projector's width.
    """

    def __init__(
        self,
        family: str,
        vision_folder: str,
        num_words: int = 60,
        strange_words: list[str] | None = None,
        hidden: int = HIDDEN,
    ):
        torch.manual_seed(1)
        self.tokenizer = make_tokenizer()
        self.words = choose_words(self.tokenizer, num_words, strange_words or [])
        self.vision_tower = randomise(CLIPVisionModel.from_pretrained(vision_folder))
        language_model_class, fields = FAMILIES[family]
        text_config = {**TEXT_CONFIG, **fields, "eos_token_id": self.tokenizer.eos_token_id}
        self.config = {
            **text_config,
            **LLAVA_CONFIG,
            "mlp_hidden_size": hidden,
            "mm_hidden_size": self.vision_tower.config.hidden_size,
            "mm_vision_tower": vision_folder,
            "mm_vocab_matrix": "./embeddings/absent.pt",
            "mm_vocab_size": len(self.words),
        }
        known = {name: value for name, value in text_config.items() if name not in ("architectures", "model_type")}
        self.language_model = randomise(language_model_class(language_model_class.config_class(**known)))
        d_v, V = self.vision_tower.config.hidden_size, len(self.words)
        self.projector = {
            "0.weight": torch.randn(hidden, d_v) / 5,
            "0.bias": torch.randn(hidden),
            "2.weight": torch.randn(hidden, hidden) / 4,
            "2.bias": torch.randn(hidden),
            "3.weight": torch.randn(V, hidden) / V,
            "3.bias": torch.randn(V) / V,
        }
        self.matrix = self.embed(list(self.words.values())).clone()  # (V, d)

    def finetune(self, distance: float) -> None:
        """Moves the language model's weights, and so the live embeddings; the matrix stays what it was."""
        for parameter in self.language_model.parameters():
            parameter.data += distance * parameter.std() * torch.randn_like(parameter)

    def embed(self, token_ids: list[int]) -> torch.Tensor:
        return self.language_model.model.embed_tokens.weight.detach()[token_ids]

    @torch.no_grad()
    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Visual tokens `(images, tokens, d)` of `pixel_values` `(images, 3, height, width)`."""
        p = self.projector
        features = self.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
        hidden = F.linear(F.gelu(F.linear(features, p["0.weight"], p["0.bias"])), p["2.weight"], p["2.bias"])
        coefficients = F.linear(hidden, p["3.weight"], p["3.bias"])  # (images, tokens, V)
        return (coefficients.float() @ self.matrix).to(features.dtype)

    @torch.no_grad()
    def logits(self, input_ids: list[int], pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `(tokens, vocabulary)` of a prompt with one image, its place marked by `IMAGE`."""
        place = input_ids.index(IMAGE)
        before, after = (self.embed(part) for part in (input_ids[:place], input_ids[place + 1 :]))
        prompt = torch.cat([before, self.encode_images(pixel_values)[0], after])  # (tokens, d)
        return self.language_model(inputs_embeds=prompt[None]).logits[0]

    def write(self, input_ids: list[int], pixel_values: torch.Tensor, length: int, unwritable: list[int]) -> list[int]:
        """The likeliest token again and again, without a cache; stops at the end token."""
        answer = []
        while len(answer) < length and self.tokenizer.eos_token_id not in answer:
            logits = self.logits([*input_ids, *answer], pixel_values)[-1]
            logits[unwritable] = -torch.inf
            answer.append(logits.argmax().item())
        return answer

    def weights(self) -> dict[str, torch.Tensor]:
        tower = {name.removeprefix("vision_model."): value for name, value in self.vision_tower.state_dict().items()}
        return {
            **self.language_model.state_dict(),
            **{f"model.mm_projector.{name}": tensor for name, tensor in self.projector.items()},
            **{f"model.vision_tower.vision_tower.vision_model.{name}": tensor for name, tensor in tower.items()},
        }

    def save(self, folder: Path, layout: str = "safetensors") -> Path:
        """Writes the checkpoint as `safetensors` or `bin`, in one file; as either's `shards`; or `projector` alone."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2))
        self.tokenizer.save_pretrained(folder)
        weights = {name: tensor.detach().clone() for name, tensor in self.weights().items()}
        if layout.startswith("bin"):  # older transformers saved what they computed, too
            weights["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
            weights["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        if layout == "projector":
            projector = {name: tensor for name, tensor in weights.items() if "mm_projector" in name}
            torch.save(projector, folder / "mm_projector.bin")
        elif layout.endswith("shards"):
            save_shards(weights, folder, layout.split()[0])
        elif layout == "bin":
            torch.save(weights, folder / "pytorch_model.bin")
        else:
            if self.config["tie_word_embeddings"]:
                del weights["lm_head.weight"]  # safetensors takes no tensor twice
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def save_vocabulary(self, path: Path) -> Path:
        path.write_text(json.dumps(self.words, indent=2))
        return path

    def save_matrix(self, path: Path) -> Path:
        # Rows chosen out of a parameter still ask for a gradient, and the original saves them so.
        torch.save(self.matrix.clone().requires_grad_() * 1, path)
        return path


class OriginalLangBridgeNext(OriginalLangBridge):
    """The same in the LLaVA-NeXT tree, which reads pictures of all sizes. Its newline is `(d,)`, as wide as words."""

    def __init__(self, family: str, vision_folder: str, hidden: int = 40, **options):
        super().__init__(family, vision_folder, hidden=hidden, **options)
        self.config |= LLAVA_NEXT_CONFIG
        self.newline = self.matrix.std() * torch.randn(self.matrix.shape[1])
        self.image_processor = CLIPImageProcessorPil.from_pretrained(vision_folder)

    def weights(self) -> dict[str, torch.Tensor]:
        return {**super().weights(), "model.image_newline": self.newline}

    def cut(self, picture: Image.Image) -> tuple[torch.Tensor, tuple[int, int]]:
        """The pixels `(tiles, 3, side, side)` of a picture, squeezed and then in tiles, and their columns and rows."""
        side = self.vision_tower.config.image_size
        width, height = choose_resolution(picture.size)
        scale = min(width / picture.width, height / picture.height)
        size = min(math.ceil(picture.width * scale), width), min(math.ceil(picture.height * scale), height)
        canvas = Image.new("RGB", (width, height), (0, 0, 0))
        canvas.paste(picture.resize(size), ((width - size[0]) // 2, (height - size[1]) // 2))
        tiles = [picture.resize((side, side))]
        for top in range(0, height, side):
            tiles += [canvas.crop((left, top, left + side, top + side)) for left in range(0, width, side)]
        pixels = [self.image_processor(tile, return_tensors="pt").pixel_values[0] for tile in tiles]
        return torch.stack(pixels), (width // side, height // side)

    @torch.no_grad()
    def encode_images(self, picture: Image.Image) -> torch.Tensor:
        """Visual tokens `(1, tokens, d)` of a picture: those of all of it, then row by row those of its tiles."""
        pixels, (columns, rows) = self.cut(picture)
        overview, *tiles = super().encode_images(pixels)  # tiles x (patches, d)
        length = math.isqrt(len(overview))  # patches of a tile's row
        across, down = columns * length, rows * length
        left = top = 0
        if picture.width / picture.height > across / down:  # padding above and below
            top = (down - int(picture.height * (across / picture.width))) // 2
        else:
            left = (across - int(picture.width * (down / picture.height))) // 2
        tokens = list(overview)
        for y in range(top, down - top):
            for x in range(left, across - left):
                tile = tiles[(y // length) * columns + x // length]
                tokens.append(tile[(y % length) * length + x % length])
            tokens.append(self.newline)
        return torch.stack(tokens)[None]


def choose_resolution(size: tuple[int, int]) -> tuple[int, int]:
    """The width and height that keep most of a picture's pixels and then waste least; of equals the first."""

    def rate(resolution: list[int]) -> tuple[int, int]:
        scale = min(resolution[0] / size[0], resolution[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, kept - resolution[0] * resolution[1]

    return tuple(max(RESOLUTIONS, key=rate))


def choose_words(tokenizer: PreTrainedTokenizerBase, number: int, strange_words: list[str]) -> dict[str, int]:
    """Ordinary words under the tokenizer's spellings and ids, in an order that neither has, and then the others."""
    ordinary = [word for word in tokenizer.get_vocab() if re.fullmatch("Ġ?[a-z]+", word)]
    words = sorted(ordinary, key=lambda word: word[::-1])[:number] + strange_words
    return {word: tokenizer.convert_tokens_to_ids(word) for word in words}


def mark_image(input_ids: list[int], image_token_id: int) -> list[int]:
    """A prompt of this package's as the original has it: one mark in place of all placeholders of the image."""
    first, number = input_ids.index(image_token_id), input_ids.count(image_token_id)
    return [*input_ids[:first], IMAGE, *input_ids[first + number :]]


def randomise(model):
    """Weights of a spread that lets every part be heard; norms stay what they are."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.eval()


def save_shards(weights: dict[str, torch.Tensor], folder: Path, kind: str) -> None:
    stem, save = ("model", save_file) if kind == "safetensors" else ("pytorch_model", torch.save)
    names, place = list(weights), {}
    for shard in range(3):
        file = f"{stem}-{shard + 1:05}-of-00003.{kind}"
        save({name: weights[name] for name in names[shard::3]}, folder / file)
        place |= dict.fromkeys(names[shard::3], file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))

# SPDX-License-Identifier: Apache-2.0
"""Sizes of the models that are measured: CLIP-L/336 and a Qwen2, whole or smaller in proportion, or a small pair."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig, Qwen2Config


Sizes = dict[str, int]
CLIP_L_336: Sizes = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "image_size": 336,
    "patch_size": 14,
}
SMALL_TOWER: Sizes = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 6,
    "num_hidden_layers": 8,
    "image_size": 224,
    "patch_size": 32,
}
QWEN2_05B: Sizes = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 24,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
QWEN2_7B: Sizes = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}
# SmolLM2-135M's layers, of which it has 30.
SMALL_TEXT: Sizes = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 6,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}


class Pair(NamedTuple):
    """A CLIP tower and a language model, the folder of `$LANGBRIDGE_DATA/tokenizers` that suits it, and V."""

    vision: Sizes
    text_class: type[PreTrainedConfig]
    text: Sizes
    tokenizer: str
    words: int


PAIRS = {
    "qwen2_0.5b": Pair(CLIP_L_336, Qwen2Config, QWEN2_05B, "qwen2", 19_200),
    "qwen2_7b": Pair(CLIP_L_336, Qwen2Config, QWEN2_7B, "qwen2", 19_200),
    "small": Pair(SMALL_TOWER, LlamaConfig, SMALL_TEXT, "smollm", 8_000),
}


@dataclass
class Shapes:
    """
    One of `PAIRS` under the paper's adapter, all widths times `scale`.

    Args:
        scale (`float`, *optional*, defaults to 1.0): what widths, vocabulary and V are multiplied by; layers stay.
        pair (`str`, *optional*, defaults to `"qwen2_0.5b"`): which of `PAIRS`.
        layers (`int`, *optional*): of tower and language model each; their own when left out.
        projector_hidden_size (`int`, *optional*, defaults to 5120): H, before `scale`.
        image_size (`int`, *optional*): pixels of an image's side; the tower's own when left out.
        vocab_size (`int`, *optional*): tokens of the language model, not scaled; its own times `scale` when left out.
    """

    scale: float = 1.0
    pair: str = "qwen2_0.5b"
    layers: int | None = None
    projector_hidden_size: int = 5120
    image_size: int | None = None
    vocab_size: int | None = None

    def times(self, width: int) -> int:
        return round(width * self.scale)

    def vision(self) -> CLIPVisionConfig:
        sizes = PAIRS[self.pair].vision
        return CLIPVisionConfig(**self._scaled(sizes), image_size=self.image_size or sizes["image_size"])

    def text(self) -> PreTrainedConfig:
        pair = PAIRS[self.pair]
        return pair.text_class(
            **self._scaled(pair.text),
            vocab_size=self.vocab_size or self.times(pair.text["vocab_size"]),
            bos_token_id=None,
            eos_token_id=None,
        )

    def _scaled(self, sizes: Sizes) -> Sizes:
        scaled = {name: self.times(sizes[name]) for name in ("hidden_size", "intermediate_size")}
        kept = {name: size for name, size in sizes.items() if name not in (*scaled, "image_size", "vocab_size")}
        return {**kept, **scaled, "num_hidden_layers": self.layers or sizes["num_hidden_layers"]}

    @property
    def words(self) -> int:
        """V."""
        return self.times(PAIRS[self.pair].words)

    @property
    def num_image_tokens(self) -> int:
        vision = self.vision()
        return (vision.image_size // vision.patch_size) ** 2

    def parts(self) -> dict[str, Any]:
        """What a LLaVA's configuration is made of: those of tower and language model, and the image token's id."""
        text = self.text()
        return {"vision_config": self.vision(), "text_config": text, "image_token_index": text.vocab_size - 1}

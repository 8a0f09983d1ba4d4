# SPDX-License-Identifier: Apache-2.0
"""The small language models of the matrix: five families, five widths, five tokenizers."""

from dataclasses import dataclass
from typing import Literal

from transformers import Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, Olmo2Config, PreTrainedConfig, Qwen2Config


@dataclass(frozen=True)
class SmallLanguageModel:
    """
    What a language model that is trained here is.

    Args:
        config_class (`type[PreTrainedConfig]`): Its family.
        width (`int`): The width of its embeddings, a multiple of 32.
        tokenizer (`str`): How its tokenizer spells, as of [`train_tokenizer`].
        vocab_size (`int`): Of its tokenizer.
        half (`int`): Which half of the caption text it learns from.
        reads_words (`bool`): Whether lists of words stand before some of the captions that it learns. Where they do
            not, only captions do: it has never read words that make no sentence.
    """

    config_class: type[PreTrainedConfig]
    width: int
    tokenizer: Literal["byte_level", "metaspace"]
    vocab_size: int
    half: int
    reads_words: bool


SMALL = {
    "small_qwen2": SmallLanguageModel(Qwen2Config, 192, "byte_level", 4096, half=0, reads_words=True),
    "small_llama": SmallLanguageModel(LlamaConfig, 224, "metaspace", 3072, half=1, reads_words=True),
    "small_gpt_neox": SmallLanguageModel(GPTNeoXConfig, 256, "byte_level", 3584, half=0, reads_words=False),
    "small_gemma3": SmallLanguageModel(Gemma3TextConfig, 160, "metaspace", 3584, half=1, reads_words=True),
    # Whose tokenizer has no part in the choice of the words, but happens to have them all.
    "small_olmo2": SmallLanguageModel(Olmo2Config, 128, "byte_level", 4096, half=1, reads_words=True),
}

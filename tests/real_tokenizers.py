# SPDX-License-Identifier: Apache-2.0
"""Tiny random language models with the vocabularies of real ones."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig


TOKENIZERS = ["qwen2", "llama3", "llama2", "mistral", "gpt2", "phi2", "smollm"]


def save_real_sized(data: Path, folder: Path) -> Path:
    """Saves one for each of `TOKENIZERS`, as large as its tokenizer is, each of another width."""
    for position, name in enumerate(TOKENIZERS):
        tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=8 + 4 * position,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
        torch.manual_seed(position)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder

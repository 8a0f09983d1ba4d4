# SPDX-License-Identifier: Apache-2.0
"""
Small language models: a tokenizer and a causal language model trained on captions within minutes.

They stand in for pretrained language models where none can be downloaded, and are saved as ordinary Hugging Face
folders.
"""

import json
import os
import random
from collections.abc import Sequence
from typing import Literal

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from modeling_langbridge.utils.files import atomic_folder
from trainer.data.caption_words import content_words
from trainer.muon import build_muon


SPECIAL_TOKENS = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<eos>"}

# The user's content, a newline, the assistant's content, the end: the form of the documents below.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['content'] + (eos_token if message['role'] == 'assistant' else '\\n') }}"
    "{% endfor %}"
)


def train_tokenizer(
    texts: Sequence[str], vocab_size: int, kind: Literal["byte_level", "metaspace"]
) -> PreTrainedTokenizerFast:
    """
    Trains a BPE tokenizer with `<unk>`, `<pad>`, `<eos>` and a plain chat template.

    Args:
        texts (`Sequence[str]`):
            The texts to learn the merges from.
        vocab_size (`int`):
            Number of tokens in all; at least 259 (256 bytes and the three special tokens).
        kind (`"byte_level"` or `"metaspace"`):
            The spelling: `Ġdog` over bytes as GPT-2 and Qwen write it, or `▁dog` with byte fallback as SentencePiece
            and Llama 2 write it.

    Returns:
        `PreTrainedTokenizerFast`: with at most `vocab_size` tokens (fewer where the texts hold fewer pairs to merge).
    """
    if vocab_size < 259:
        raise ValueError(f"vocab_size must be at least 259 (256 bytes and 3 special tokens), not {vocab_size}.")
    specials = list(SPECIAL_TOKENS.values())
    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
    elif kind == "metaspace":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        # No blank is put before a text (Llama 2 does): prompt and answer, tokenized apart, must read as one document.
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation()]
        )
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=specials + byte_tokens, limit_alphabet=200, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        # The trainer takes the byte tokens in as special tokens; as such they would vanish when text is decoded.
        state = json.loads(tokenizer.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
        tokenizer = Tokenizer.from_str(json.dumps(state))
    else:
        raise ValueError(f'kind must be "byte_level" or "metaspace", not {kind!r}.')
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )


def word_prompt(words: Sequence[str]) -> str:
    """Words as one line of text, each with its space before it, so that the first is spelt as the others are."""
    return "".join(f" {word}" for word in words)


def caption_documents(captions: Sequence[str], *, seed: int) -> list[str]:
    """
    Makes documents `prefix, newline, caption` that teach a language model to read what stands before the caption.

    A quarter of the prefixes each are the caption's content words in random order, a jumble of words (see
    [`jumbled_words`]), the caption itself, and nothing. Visual tokens will stand where the prefix stands; the empty
    prefix is the blind model's prompt.

    Args:
        captions (`Sequence[str]`):
            One document is made of each.
        seed (`int`):
            Decides which caption gets which prefix, and the order of the words.
    """
    generator = random.Random(seed)
    captions_words = [content_words(caption) for caption in captions]
    captions_with: dict[str, list[int]] = {}
    for position, words in enumerate(captions_words):
        for word in words:
            captions_with.setdefault(word, []).append(position)
    documents = []
    for caption, words in zip(captions, captions_words, strict=True):
        generator.shuffle(words)
        related = generator.choices(captions_with[words[0]], k=2) if words else []
        others = [word for position in related for word in captions_words[position] if word not in words]
        jumble = word_prompt(jumbled_words(words, others, generator))
        prefix = generator.choice([word_prompt(words), jumble, caption, ""])
        documents.append(f"{prefix}\n{caption}")
    return documents


def jumbled_words(words: Sequence[str], others: Sequence[str], generator: random.Random) -> list[str]:
    """
    Six to forty-eight words as the patches of a photo might be read: most of them right, some repeated, among
    wrong but plausible ones.

    Args:
        words (`Sequence[str]`): the right ones; without any there is no jumble.
        others (`Sequence[str]`): what up to half of the jumble is made of.
        generator (`random.Random`): draws it.
    """
    if not words:
        return []
    count = generator.randint(6, 48)
    wrong = round(generator.uniform(0, 0.5) * count) if others else 0
    jumble = generator.choices(words, [generator.expovariate(1) for _ in words], k=count - wrong)
    jumble += generator.choices(others, k=wrong) if wrong else []
    generator.shuffle(jumble)
    return jumble


def train_language_model(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[str],
    output_dir: str | os.PathLike,
    *,
    learning_rate: float,
    max_steps: int = -1,
    num_train_epochs: float = 1.0,
    batch_size: int = 48,
    seed: int = 0,
) -> None:
    """
    Trains a causal language model from random weights and saves it with its tokenizer, atomically.

    Each document is one row, ended by `<eos>` and padded; the loss counts its real tokens only. Muon trains the hidden
    matrices: AdamW alone did not teach models of this size to copy within minutes.

    Args:
        config ([`PreTrainedConfig`]):
            Of any causal language model; `vocab_size` must be `len(tokenizer)`. The ids of its special tokens are set
            from the tokenizer.
        tokenizer ([`PreTrainedTokenizerFast`]):
            With a pad token and an end token.
        documents (`Sequence[str]`):
            Without the end token, which is added here.
        output_dir (`str` or `os.PathLike`):
            The folder to be; it must not exist yet, or be empty.
        learning_rate (`float`):
            Of the hidden matrices; see [`build_muon`].
        max_steps (`int`, *optional*, defaults to -1):
            Number of optimiser steps; where positive it stands in place of `num_train_epochs`.
        num_train_epochs (`float`, *optional*, defaults to 1.0):
            Passes over the documents.
        batch_size (`int`, *optional*, defaults to 48):
            Documents per step.
        seed (`int`, *optional*, defaults to 0):
            Of the weights and of the order of the documents.
    """
    if config.vocab_size != len(tokenizer):
        raise ValueError(f"config.vocab_size is {config.vocab_size}, but the tokenizer has {len(tokenizer)} tokens.")
    config.bos_token_id = None
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    with atomic_folder(output_dir) as folder:
        set_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        input_ids = tokenizer([d + tokenizer.eos_token for d in documents], add_special_tokens=False)["input_ids"]
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=max_steps,
            num_train_epochs=num_train_epochs,
            per_device_train_batch_size=batch_size,
            train_sampling_strategy="group_by_length",
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            dataloader_pin_memory=False,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            seed=seed,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"input_ids": input_ids}),
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )
        trainer.optimizer = build_muon(model, learning_rate)  # given now, when the model is on its device
        trainer.train()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

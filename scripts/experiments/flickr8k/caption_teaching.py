# SPDX-License-Identifier: Apache-2.0
"""A pretrained language model learns from text alone to make captions of words, so that only the words can lack."""

import json
import random
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    set_seed,
)

from experiments.flickr8k.caption_corpora import read_caption_text
from experiments.flickr8k.pretrained_world import PretrainedWorld
from experiments.small_language_model import jumbled_words, word_prompt
from trainer.data.caption_words import content_words
from trainer.device import has_gpu


def teach(world: PretrainedWorld, name: str, folder: Path) -> None:
    """A language model learns to make captions of words, from text alone."""
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(world.language_model(name))
    model = AutoModelForCausalLM.from_pretrained(world.language_model(name), dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    sizes = world.sizes
    documents = word_documents(world, sizes.teaching_steps * sizes.teaching_batch_size, tokenizer.eos_token)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=sizes.teaching_steps,
        per_device_train_batch_size=sizes.teaching_batch_size,
        learning_rate=sizes.teaching_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        bf16=world.bf16,
        use_cpu=not has_gpu(),
        dataloader_pin_memory=False,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
    )
    ids = tokenizer(documents)["input_ids"]
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
        # The collator for language modeling masks the end of a caption where it pads with the same token, as SmolLM2.
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.train()
    (folder / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n", encoding="utf-8")
    model.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def word_documents(world: PretrainedWorld, count: int, end: str) -> list[str]:
    """Captions of the caption text, each behind words of which most are its own."""
    captions = read_caption_text(world.data / "caption_text", seed=0)
    generator = random.Random(0)
    documents = []
    for caption, another in zip(captions[:count], captions[count : 2 * count], strict=True):
        jumble = jumbled_words(content_words(caption), content_words(another), generator)
        words = list(dict.fromkeys(jumble))[: world.sizes.words_per_image]
        documents.append(f"Words:{word_prompt(words)}\nCaption: {caption}{end}")
    return documents

# SPDX-License-Identifier: Apache-2.0
"""The first stages of the matrix: tokenizers, the words that all share, and language models."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from experiments.flickr8k.caption_corpora import read_caption_text
from experiments.flickr8k.pretrained_world import CHAT_TEMPLATE, prepare_language_model
from experiments.matrix.language_models import SMALL
from experiments.matrix.world import MatrixWorld
from experiments.small_language_model import caption_documents, train_language_model, train_tokenizer
from modeling_langbridge import SharedVocabulary


def make_tokenizers(world: MatrixWorld, folder: Path) -> None:
    """The small language models' tokenizers, and the words that all language models share."""
    captions = read_caption_text(world.data / "caption_text", seed=0)
    tokenizers = [AutoTokenizer.from_pretrained(part) for part in world.pretrained.values()]
    for name in world.sizes.language_models:
        tokenizer = make_tokenizer(name, captions)
        tokenizer.save_pretrained(folder / name)
        tokenizers.append(tokenizer)
    sample = captions[:40_000]  # enough to rank two thousand words
    SharedVocabulary.build(tokenizers, sample, world.sizes.shared_words).save(folder / "vocabulary.json")


def make_tokenizer(name: str, captions: list[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of a small language model, trained on its half of the captions."""
    small = SMALL[name]
    tokenizer = train_tokenizer(captions[small.half :: 2], small.vocab_size, small.tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    # Known from the start: else each adapter would get a language model with a random row of its own.
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return tokenizer


def train_small(world: MatrixWorld, name: str, folder: Path) -> None:
    """A small language model, trained on captions that stand behind what is to be read."""
    captions = read_caption_text(world.data / "caption_text", seed=0)
    teach_captions(
        world, name, AutoTokenizer.from_pretrained(world.output_dir / "tokenizers" / name), captions, folder
    )


def train_newcomer(world: MatrixWorld, folder: Path) -> None:
    """A small language model that no adapter meets in training, with a tokenizer that came after the words."""
    captions, name = read_caption_text(world.data / "caption_text", seed=0), world.sizes.newcomer
    teach_captions(world, name, make_tokenizer(name, captions), captions, folder)


def teach_captions(
    world: MatrixWorld, name: str, tokenizer: PreTrainedTokenizerFast, captions: list[str], folder: Path
) -> None:
    small, sizes = SMALL[name], world.sizes
    config = small.config_class(
        vocab_size=len(tokenizer),
        hidden_size=small.width,
        intermediate_size=small.width * 8 // 3,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=small.width // 32,
        num_key_value_heads=small.width // 32,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    train_language_model(
        config,
        tokenizer,
        write_documents(captions[small.half :: 2], reads_words=small.reads_words),
        folder,
        learning_rate=sizes.language_model_learning_rate,
        max_steps=sizes.language_model_steps,
        batch_size=sizes.language_model_batch_size,
    )


def prepare_pretrained(world: MatrixWorld, name: str, folder: Path) -> None:
    """A pretrained language model, with the prompt of captions."""
    prepare_language_model(world.pretrained[name], folder)


def write_documents(captions: list[str], *, reads_words: bool) -> list[str]:
    """Documents in the form of the prompts of photos, of which a half begin with words where those are read."""
    documents = [document.split("\n") for document in caption_documents(captions, seed=0)]
    if not reads_words:
        documents = [(prefix if prefix == caption else "", caption) for prefix, caption in documents]
    return [f"Words:{prefix}\nCaption: {caption}" for prefix, caption in documents]

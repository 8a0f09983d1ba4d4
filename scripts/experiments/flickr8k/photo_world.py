# SPDX-License-Identifier: Apache-2.0
"""What experiments on real photos share: language models A and B, their words, and the frozen tower's features."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from accelerate import Accelerator
from transformers import AutoTokenizer, LlamaConfig, Qwen2Config

from experiments.flickr8k.caption_corpora import caption_dataset, read_caption_text, read_flickr8k
from experiments.small_language_model import (
    CHAT_TEMPLATE,
    caption_documents,
    train_language_model,
    train_tokenizer,
)
from experiments.stages import Stage, make_stage
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.data.dataset_rows import as_rows
from trainer.data.feature_cache import FeatureCache
from trainer.data.feature_key import describe_features
from trainer.features.computing import FeatureComputer
from trainer.grounding import compose_for_grounding


@dataclass(frozen=True)
class AdapterSizes:
    """How large adapters are and how long they learn."""

    projector_hidden_size: int = 256  # H
    train_photos: int = 6000
    test_photos: int = 1000
    adapter_steps: int = 800
    adapter_batch_size: int = 32
    adapter_learning_rate: float = 2e-2
    grounding_steps: int = 300
    grounding_batch_size: int = 64
    grounding_learning_rate: float = 2e-3
    patch_dropout: float = 0.0  # in grounding
    tuning_steps: int = 300  # of the grounded adapter on captions
    tuning_learning_rate: float = 1e-3
    words_per_image: int = 8


@dataclass(frozen=True)
class Sizes(AdapterSizes):
    """How large everything is and how long it learns. The defaults fill about three hours on two cores."""

    vocab_sizes: tuple[int, int] = (4096, 3072)  # of tokenizers A and B
    hidden_sizes: tuple[int, int] = (192, 224)  # of language models A and B
    num_hidden_layers: int = 4
    language_model_steps: int = 1000
    language_model_batch_size: int = 48
    language_model_learning_rate: float = 6e-3
    shared_words: int = 2000  # V
    distillation_steps: int = 500
    distillation_learning_rate: float = 1e-2
    caption_distillation_steps: int = 400  # of the distilled adapter, on what each language model says
    group_distance: float = 0.25  # of patches in one group, 1 - the cosine of their coefficients
    grouped_words: int = 8  # per image, of groups of patches
    finetuning_steps: tuple[int, ...] = (
        0,
        25,
        50,
        100,
        200,
        400,
    )  # of B and an adapter, after which photos are captioned
    finetuning_learning_rate: float = 5e-4  # of B
    finetuning_adapter_learning_rate: float = 1e-2  # of every adapter except words, which learn as in tuning


QUICK = Sizes(
    vocab_sizes=(2048, 2048),
    hidden_sizes=(128, 128),
    num_hidden_layers=3,
    language_model_steps=400,
    shared_words=1000,
    train_photos=1500,
    test_photos=200,
    adapter_steps=100,
    grounding_steps=60,
    tuning_steps=40,
    distillation_steps=50,
    caption_distillation_steps=20,
    finetuning_steps=(0, 20, 40),
)


@dataclass(frozen=True)
class AdapterWorld:
    """
    What adapters are trained on: the photos, one frozen tower, and language models.

    Args:
        data (`Path`): holds `flickr8k` and what the subclass names.
        output_dir (`Path`): the folder of the stages' folders.
        sizes ([`AdapterSizes`]): of the adapters.
        adapter_seeds (`tuple[int, ...]`): of the adapters, each of which is trained once with each.
    """

    splits: ClassVar = ("train", "test")
    bf16: ClassVar = False  # whether language models multiply in bfloat16; small ones gain nothing by it

    data: Path
    output_dir: Path
    sizes: AdapterSizes
    adapter_seeds: tuple[int, ...]

    @property
    def tower(self) -> str:
        raise NotImplementedError

    @property
    def vocabulary(self) -> SharedVocabulary:
        raise NotImplementedError

    def language_model(self, name: str) -> str:
        raise NotImplementedError

    def stage(self, function: Callable[..., None], *arguments: Any) -> Stage:
        """A stage of a function that takes this world, further arguments and a folder."""
        return make_stage(function, self, *arguments)

    @property
    def adapter_schedule(self) -> dict[str, Any]:
        """How adapters learn through a language model, as of `train_adapter`, where not by a cosine to the end, and
        the split that their loss is measured on, `judged_on`."""
        return {}

    def photos(self, split: str) -> list[CaptionedPhoto]:
        limit = self.sizes.train_photos if split == "train" else self.sizes.test_photos
        return read_flickr8k(self.data / "flickr8k", split, limit)

    @property
    def feature_folder(self) -> str:
        """Where all stages keep the tower's features, outside of their own folders, which go when they are stopped."""
        return str(self.output_dir / "features_of_photos")

    def features(self, model: LangBridgeForConditionalGeneration, processor: LangBridgeProcessor) -> FeatureCache:
        """The features of all photos, as `compute_features` left them."""
        return FeatureCache(self.feature_folder, describe_features(model, processor.image_processor))


@dataclass(frozen=True)
class SmallWorld(AdapterWorld):
    """Language models and words that earlier stages left, over MobileNetV2, which lies beside the photos."""

    @property
    def tower(self) -> str:
        return str(self.data / "mobilenetv2_imagenet")

    @property
    def vocabulary(self) -> SharedVocabulary:
        return SharedVocabulary.from_file(self.output_dir / "tokenizers" / "vocabulary.json")

    def language_model(self, name: str) -> str:
        return str(self.output_dir / f"language_model_{name}")


@dataclass(frozen=True)
class PhotoWorld(SmallWorld):
    """
    Language models A and B, trained here, over MobileNetV2.

    Args:
        data (`Path`): holds `caption_text`, `flickr8k` and `mobilenetv2_imagenet`.
        sizes ([`Sizes`]): of everything.
        tokenizers (`tuple[str, str]`, *optional*):
            Folders of `data/tokenizers` for A and B, in place of small ones trained here.
        seed (`int`): of the text's halves and of the language models.
    """

    sizes: Sizes
    tokenizers: tuple[str, str] | None
    seed: int

    @property
    def settings(self) -> dict:
        """All that decides the results, except the adapters' seeds: more of them may be added later."""
        return {"sizes": dataclasses.asdict(self.sizes), "tokenizers": self.tokenizers, "seed": self.seed}

    def caption_text(self) -> tuple[list[str], list[str]]:
        """The halves of the text that language models A and B learn from."""
        captions = read_caption_text(self.data / "caption_text", seed=self.seed)
        return captions[0::2], captions[1::2]


def make_tokenizers(world: PhotoWorld, folder: Path) -> None:
    """Tokenizers A and B, and the words they share."""
    halves = world.caption_text()
    if world.tokenizers is None:
        kinds = ("byte_level", "metaspace")
        tokenizers = [train_tokenizer(*how) for how in zip(halves, world.sizes.vocab_sizes, kinds, strict=True)]
    else:
        tokenizers = [AutoTokenizer.from_pretrained(world.data / "tokenizers" / name) for name in world.tokenizers]
    for name, tokenizer in zip("ab", tokenizers, strict=True):
        tokenizer.chat_template = CHAT_TEMPLATE
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": "<pad>"})
        # Known from the start: else each adapter would get a language model with a random row of its own.
        tokenizer.add_tokens(["<image>"], special_tokens=True)
        tokenizer.save_pretrained(folder / name)
    sample = halves[0][:20_000] + halves[1][:20_000]  # enough to rank two thousand words
    SharedVocabulary.build(tokenizers, sample, world.sizes.shared_words).save(folder / "vocabulary.json")


def train_language_model_a(world: PhotoWorld, folder: Path) -> None:
    """Language model A: Qwen2, on the first half of the text."""
    _train_language_model(world, folder, 0, Qwen2Config)


def train_language_model_b(world: PhotoWorld, folder: Path) -> None:
    """Language model B: Llama, wider, on the other half of the text."""
    _train_language_model(world, folder, 1, LlamaConfig)


def _train_language_model(world: PhotoWorld, folder: Path, which: int, config_class: type) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world.output_dir / "tokenizers" / "ab"[which])
    width = world.sizes.hidden_sizes[which]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=world.sizes.num_hidden_layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    train_language_model(
        config,
        tokenizer,
        caption_documents(world.caption_text()[which], seed=world.seed),
        folder,
        learning_rate=world.sizes.language_model_learning_rate,
        max_steps=world.sizes.language_model_steps,
        batch_size=world.sizes.language_model_batch_size,
        seed=world.seed,
    )


def compute_features(world: AdapterWorld, folder: Path) -> None:
    """The frozen tower's features of every photo."""
    fill_features(world)


def fill_features(world: AdapterWorld) -> FeatureCache:
    """The features of all photos; what is not there yet is computed."""
    model, processor = compose_for_grounding(world.tower, world.vocabulary, projector_hidden_size=1)
    cache = world.features(model, processor)
    photos = [photo for split in world.splits for photo in world.photos(split)]
    computer = FeatureComputer(model, processor.image_processor, Accelerator(mixed_precision="no"), batch_size=16)
    computer.fill(cache, [as_rows(caption_dataset(photos))])
    return cache

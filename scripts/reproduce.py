# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
r"""
Real photos, from nothing: small language models, adapters over a frozen tower, and how well their captions score.

    python scripts/reproduce.py --data ../shared/data --output_dir reproduce_output

Under an hour on two CPU cores, a few minutes with --quick. Each stage leaves a folder of its own in the output folder,
whole or not at all, and a second run with the same settings goes on where the first one stopped. To do a stage again,
remove its folder and those of the stages after it. Where other work shares the cores, put OMP_WAIT_POLICY=PASSIVE
before the command: threads that wait for each other by spinning slow small models down more than tenfold.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, update_wrapper
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    set_seed,
)
from transformers.image_utils import load_image
from trl import SFTTrainer

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from trainer.caption_metrics import caption_scores, check_java
from trainer.feature_cache import FeatureCache
from trainer.miniature.adapter_training import train_adapter
from trainer.miniature.caption_corpora import Photo, caption_dataset, read_caption_text, read_photos
from trainer.miniature.caption_report import save_caption_picture, score_table
from trainer.miniature.captioning import caption_photos, complete_prompts
from trainer.miniature.mlp_baseline import build_mlp_baseline, freeze_all_but_mlp
from trainer.miniature.small_language_model import (
    CHAT_TEMPLATE,
    caption_documents,
    content_words,
    train_language_model,
    train_tokenizer,
    word_prompt,
)
from trainer.miniature.stages import claim_output_dir, run_stages
from trainer.sft_trainer import LangBridgeSFTTrainer


@dataclass(frozen=True)
class Sizes:
    """How large everything is. The defaults fill about forty minutes on two cores."""

    vocab_sizes: tuple[int, int] = (4096, 3072)  # of tokenizers A and B
    hidden_sizes: tuple[int, int] = (192, 224)  # of language models A and B
    num_hidden_layers: int = 4
    language_model_steps: int = 1000
    language_model_batch_size: int = 48
    language_model_learning_rate: float = 6e-3
    shared_words: int = 2000  # V
    projector_hidden_size: int = 256  # H
    train_photos: int = 6000
    test_photos: int = 1000
    adapter_steps: int = 400
    adapter_batch_size: int = 32
    adapter_learning_rate: float = 2e-2


QUICK = Sizes(
    vocab_sizes=(2048, 2048),
    hidden_sizes=(128, 128),
    num_hidden_layers=3,
    language_model_steps=400,
    shared_words=1000,
    train_photos=1500,
    test_photos=200,
    adapter_steps=100,
)


@dataclass(frozen=True)
class Run:
    """What every stage is given: where the data lies, where the results go, and how."""

    data: Path
    output_dir: Path
    sizes: Sizes
    tokenizers: tuple[str, str] | None
    seed: int

    @property
    def tower(self) -> str:
        return str(self.data / "mobilenetv2_imagenet")

    def photos(self, split: str) -> list[Photo]:
        limit = self.sizes.train_photos if split == "train" else self.sizes.test_photos
        return read_photos(self.data / "flickr8k", split, limit)

    def caption_text(self) -> tuple[list[str], list[str]]:
        """The halves of the text that language models A and B learn from."""
        captions = read_caption_text(self.data / "caption_text", seed=self.seed)
        return captions[0::2], captions[1::2]

    @property
    def settings(self) -> dict:
        return {"sizes": dataclasses.asdict(self.sizes), "tokenizers": self.tokenizers, "seed": self.seed}

    def features(self, tower: PreTrainedModel) -> FeatureCache:
        cache = FeatureCache(tower)
        cache.load(self.output_dir / "features" / "features.safetensors")
        return cache


def make_tokenizers(run: Run, folder: Path) -> None:
    """Tokenizers A and B, and the words they share."""
    halves = run.caption_text()
    if run.tokenizers is None:
        kinds = ("byte_level", "metaspace")
        tokenizers = [train_tokenizer(*how) for how in zip(halves, run.sizes.vocab_sizes, kinds, strict=True)]
    else:
        tokenizers = [AutoTokenizer.from_pretrained(run.data / "tokenizers" / name) for name in run.tokenizers]
    for name, tokenizer in zip("ab", tokenizers, strict=True):
        tokenizer.chat_template = CHAT_TEMPLATE
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": "<pad>"})
        # Known from the start: else each adapter would get a language model with a random row of its own.
        tokenizer.add_tokens(["<image>"], special_tokens=True)
        tokenizer.save_pretrained(folder / name)
    sample = halves[0][:20_000] + halves[1][:20_000]  # enough to rank two thousand words
    SharedVocabulary.build(tokenizers, sample, run.sizes.shared_words).save(folder / "vocabulary.json")


def train_language_model_a(run: Run, folder: Path) -> None:
    """Language model A: Qwen2, on the first half of the text."""
    _train_language_model(run, folder, 0, Qwen2Config)


def train_language_model_b(run: Run, folder: Path) -> None:
    """Language model B: Llama, wider, on the other half of the text."""
    _train_language_model(run, folder, 1, LlamaConfig)


def _train_language_model(run: Run, folder: Path, which: int, config_class: type) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run.output_dir / "tokenizers" / "ab"[which])
    width = run.sizes.hidden_sizes[which]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=run.sizes.num_hidden_layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    train_language_model(
        config,
        tokenizer,
        caption_documents(run.caption_text()[which], seed=run.seed),
        folder,
        learning_rate=run.sizes.language_model_learning_rate,
        max_steps=run.sizes.language_model_steps,
        batch_size=run.sizes.language_model_batch_size,
        seed=run.seed,
    )


def compute_features(run: Run, folder: Path) -> None:
    """What the frozen tower sees in every train and test photo."""
    cache = FeatureCache(AutoModel.from_pretrained(run.tower, dtype=torch.float32))
    image_processor = AutoImageProcessor.from_pretrained(run.tower)
    photos = run.photos("train") + run.photos("test")
    for start in tqdm(range(0, len(photos), 16), desc="features, 16 photos a step"):
        images = [load_image(str(photo.path)) for photo in photos[start : start + 16]]
        cache(image_processor(images, return_tensors="pt")["pixel_values"])
    cache.save(folder / "features.safetensors")


def train_langbridge(run: Run, folder: Path) -> None:
    """LangBridge over language model A."""
    model, processor = _compose(run)
    _train_adapter(run, folder, LangBridgeSFTTrainer, model, processor)


def train_mlp(run: Run, folder: Path) -> None:
    """The baseline: LLaVA's MLP over the same parts, trained alike."""
    langbridge, processor = _compose(run)
    model = build_mlp_baseline(langbridge, vision_feature_layer=-1)
    freeze_all_but_mlp(model)
    _train_adapter(run, folder, SFTTrainer, model, processor)


def _compose(run: Run) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    set_seed(run.seed)
    text = str(run.output_dir / "language_model_a")
    processor = LangBridgeProcessor.from_vision_text_pretrained(run.tower, text)
    vocabulary = SharedVocabulary.from_file(run.output_dir / "tokenizers" / "vocabulary.json")
    width = run.sizes.projector_hidden_size
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        run.tower, text, vocabulary, processor, projector_hidden_size=width
    )
    return model, processor


def _train_adapter(
    run: Run, folder: Path, trainer_class: type[SFTTrainer], model: PreTrainedModel, processor: LangBridgeProcessor
) -> None:
    first_captions = [dataclasses.replace(photo, captions=photo.captions[:1]) for photo in run.photos("test")]
    with run.features(model.model.vision_tower).standing_in_for_tower(model.model):
        train_adapter(
            trainer_class,
            model,
            processor,
            folder,
            train_dataset=caption_dataset(run.photos("train")),
            eval_dataset=caption_dataset(first_captions),
            learning_rate=run.sizes.adapter_learning_rate,
            max_steps=run.sizes.adapter_steps,
            batch_size=run.sizes.adapter_batch_size,
            seed=run.seed,
        )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_captions(run: Run, folder: Path) -> None:
    """Captions of the test photos: through both adapters, and by the bare language models without the photo."""
    photos = run.photos("test")
    captions = {}
    for name in "ab":
        text = run.output_dir / f"language_model_{name}"
        model, tokenizer = _to_device(AutoModelForCausalLM.from_pretrained(text)), AutoTokenizer.from_pretrained(text)
        blind = complete_prompts(model, tokenizer, [_prompt(tokenizer, "")])
        told = complete_prompts(model, tokenizer, [_prompt(tokenizer, _human_words(photo)) for photo in photos])
        captions[f"blind_{name}"] = {photo.name: blind[0] for photo in photos}
        captions[f"told_{name}"] = {photo.name: caption for photo, caption in zip(photos, told, strict=True)}
    classes = {"mlp": LlavaForConditionalGeneration, "langbridge": LangBridgeForConditionalGeneration}
    for name, model_class in classes.items():
        checkpoint = run.output_dir / name
        model = _to_device(model_class.from_pretrained(checkpoint, dtype=torch.float32))
        processor = LangBridgeProcessor.from_pretrained(checkpoint)
        with run.features(model.model.vision_tower).standing_in_for_tower(model.model):
            captions[name] = caption_photos(model, processor, photos)
    _write_json(folder / "captions.json", captions)


def _to_device(model: PreTrainedModel) -> PreTrainedModel:
    return model.to(torch.accelerator.current_accelerator() or "cpu")


def _prompt(tokenizer: PreTrainedTokenizerBase, content: str) -> str:
    message = {"role": "user", "content": content}
    return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def _human_words(photo: Photo, count: int = 5) -> str:
    words = Counter(word for caption in photo.captions for word in content_words(caption))
    return word_prompt([word for word, _ in words.most_common(count)])


STAGES: dict[str, Callable[[Run, Path], None]] = {
    "tokenizers": make_tokenizers,
    "language_model_a": train_language_model_a,
    "language_model_b": train_language_model_b,
    "features": compute_features,
    "langbridge": train_langbridge,
    "mlp": train_mlp,
    "captions": write_captions,
}

ROWS = {
    "blind_a": "no photo: language model A alone",
    "mlp": "MLP adapter (stock LLaVA) with A",
    "langbridge": "LangBridge adapter with A",
    "told_a": "five words of the human captions as text, A",
    "blind_b": "no photo: language model B alone",
    "told_b": "five words of the human captions as text, B",
}


def reproduce(run: Run) -> str:
    """Runs all stages, scores the captions, writes results.json, results.md and captions.png; returns the table."""
    stages = {name: update_wrapper(partial(stage, run), stage) for name, stage in STAGES.items()}
    seconds = run_stages(run.output_dir, [{name: stage} for name, stage in stages.items()])
    photos = run.photos("test")
    captions = _read_json(run.output_dir / "captions" / "captions.json")
    references = {photo.name: photo.captions for photo in photos}
    scores = {name: caption_scores(captions[name], references) for name in ROWS}
    losses = {name: _read_json(run.output_dir / name / "log.json")["test_loss"] for name in ("mlp", "langbridge")}
    results = {"scores": scores, "test_loss": losses, "seconds": seconds, "settings": run.settings}
    _write_json(run.output_dir / "results.json", results)
    table = score_table({row: scores[name] for name, row in ROWS.items()})
    text = (
        f"{table}\n\nCIDEr and BLEU-4 on {len(photos)} Flickr8k test photos; loss per token on their first captions: "
        f"MLP {losses['mlp']:.3f}, LangBridge {losses['langbridge']:.3f}.\n\n"
        f"Seconds: {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())}.\n"
    )
    (run.output_dir / "results.md").write_text(text, encoding="utf-8")
    shown = photos[:: max(1, len(photos) // 8)][:8]
    labels = {"no photo": "blind_a", "MLP": "mlp", "LangBridge": "langbridge", "human words": "told_a"}
    chosen = {label: captions[name] for label, name in labels.items()}
    save_caption_picture(shown, chosen, run.output_dir / "captions.png")
    return text


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_arguments() -> Run:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("LANGBRIDGE_DATA", "../shared/data"),
        help="holds caption_text, flickr8k and mobilenetv2_imagenet (default: $LANGBRIDGE_DATA or ../shared/data)",
    )
    parser.add_argument("--output_dir", type=Path, default=Path("reproduce_output"), help="default: reproduce_output")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that all works, not how well")
    parser.add_argument(
        "--tokenizers",
        nargs=2,
        metavar=("A", "B"),
        help="two folders of DATA/tokenizers, such as qwen2 llama3, in place of small ones trained here (wants a GPU)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    arguments = parser.parse_args()
    tokenizers = [f"tokenizers/{name}" for name in arguments.tokenizers or []]
    for needed in ["caption_text", "flickr8k", "mobilenetv2_imagenet", *tokenizers]:
        if not (arguments.data / needed).is_dir():
            parser.error(f"there is no folder {arguments.data / needed}: check --data and --tokenizers")
    return Run(
        data=arguments.data.resolve(),
        output_dir=arguments.output_dir,
        sizes=QUICK if arguments.quick else Sizes(),
        tokenizers=tuple(arguments.tokenizers) if arguments.tokenizers else None,
        seed=arguments.seed,
    )


def main() -> None:
    run = parse_arguments()
    try:
        check_java()
        claim_output_dir(run.output_dir, run.settings)
    except (RuntimeError, FileExistsError) as error:
        sys.exit(f"error: {error}")
    print(reproduce(run))
    print(f"Table, captions and picture: {run.output_dir}")


if __name__ == "__main__":
    main()

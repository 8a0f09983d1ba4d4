# SPDX-License-Identifier: Apache-2.0
"""The demo's stages: a synthetic world, small models that know it, adapters trained alike, and their captions."""

import dataclasses
import json
import random
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datasets import Dataset, load_from_disk
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2Config,
    set_seed,
)
from trl import SFTTrainer

from experiments.adapter_training import train_adapter
from experiments.mlp_baseline import build_mlp_baseline, freeze_all_but_mlp
from experiments.small_language_model import train_language_model, train_tokenizer
from experiments.stages import claim_output_dir, make_stage, run_stages
from experiments.synthetic.demo_report import accuracy_table, compare_captions, save_scene_picture
from experiments.synthetic.scene_captions import caption_through_pipeline, scene_dataset
from experiments.synthetic.synthetic_world import (
    PROMPT,
    Scene,
    attribute_accuracy,
    language_documents,
    make_scenes,
)
from experiments.synthetic.tiny_tower import train_tower
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from modeling_langbridge.utils.files import atomic_file, read_json
from trainer.evaluation.captioning import complete_prompts
from trainer.sft_trainer import LangBridgeSFTTrainer


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults fill four to nine minutes on two cores."""

    train_scenes: int = 8000
    held_out_scenes: int = 500
    text_scenes: int = 24000  # for each language model
    tower_steps: int = 700
    language_model_steps: int = 1600
    adapter_steps: int = 400
    shared_words: int = 160  # V


# How many of the training scenes are also written as picture files, for commands that take files.
SAMPLES = 1000


QUICK = Sizes(
    train_scenes=200,
    held_out_scenes=8,
    text_scenes=400,
    tower_steps=10,
    language_model_steps=10,
    adapter_steps=5,
    shared_words=100,
)


@dataclass(frozen=True)
class Demo:
    """What every stage is given."""

    output_dir: Path
    sizes: Sizes
    seed: int

    @property
    def settings(self) -> dict:
        return {"demo": "synthetic world", "seed": self.seed, "sizes": dataclasses.asdict(self.sizes)}

    @cached_property
    def train_scenes(self) -> list[Scene]:
        return make_scenes(self.sizes.train_scenes, ("train",), self.seed)

    @cached_property
    def held_out_scenes(self) -> list[Scene]:
        return make_scenes(self.sizes.held_out_scenes, ("held_out",), self.seed)

    def dataset(self, name: str) -> Dataset:
        return load_from_disk(str(self.output_dir / "world" / name))

    def folder(self, stage: str) -> str:
        return str(self.output_dir / stage)


def make_world(demo: Demo, folder: Path) -> None:
    """Scenes with captions: to train on, and held out."""
    rng = random.Random(demo.seed)
    for name, scenes in (("train", demo.train_scenes), ("held_out", demo.held_out_scenes)):
        samples = scene_dataset([scene.draw() for scene in scenes], [scene.caption(rng) for scene in scenes])
        samples.save_to_disk(str(folder / name))


def write_samples(demo: Demo, folder: Path) -> None:
    """Training scenes as files, samples.json and photos, for commands to be tried on."""
    (folder / "photos").mkdir()
    rng = random.Random(demo.seed)
    samples = []
    for index, scene in enumerate(demo.train_scenes[:SAMPLES]):
        image = f"photos/{index}.png"
        scene.draw().save(folder / image)
        turns = [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": scene.caption(rng)}]
        samples.append({"image": image, "conversations": turns})
    (folder / "samples.json").write_text(json.dumps(samples, indent=1) + "\n", encoding="utf-8")


def train_vision_tower(demo: Demo, folder: Path) -> None:
    """A tiny CLIP vision tower learns to name attributes."""
    pictures = [images[0] for images in demo.dataset("train")["images"]]
    train_tower(
        demo.train_scenes,
        pictures,
        folder,
        learning_rate=1.5e-2,
        max_steps=demo.sizes.tower_steps,
        seed=demo.seed,
    )


def train_language_model_a(demo: Demo, folder: Path) -> None:
    """Language model A: Qwen2, width 80, byte-level BPE."""
    scenes = make_scenes(demo.sizes.text_scenes, ("train", "text"), seed=2 * demo.seed)
    tokenizer = train_tokenizer(language_documents(scenes, demo.seed), 512, "byte_level")
    _train_language_model(demo, folder, scenes, tokenizer, Qwen2Config, width=80)


def train_language_model_b(demo: Demo, folder: Path) -> None:
    """Language model B: Llama, width 96, metaspace BPE. The vocabulary is shared with it."""
    scenes = make_scenes(demo.sizes.text_scenes, ("train", "text"), seed=2 * demo.seed + 1)
    tokenizer = train_tokenizer(language_documents(scenes, demo.seed), 448, "metaspace")
    _train_language_model(demo, folder, scenes, tokenizer, LlamaConfig, width=96)


def _train_language_model(
    demo: Demo,
    folder: Path,
    scenes: list[Scene],
    tokenizer: PreTrainedTokenizerFast,
    config_class: type[PreTrainedConfig],
    width: int,
) -> None:
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 16,
        num_key_value_heads=width // 16,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    train_language_model(
        config,
        tokenizer,
        language_documents(scenes, demo.seed),
        folder,
        learning_rate=1e-2,
        max_steps=demo.sizes.language_model_steps,
        batch_size=32,
        seed=demo.seed,
    )


def build_vocabulary(demo: Demo, folder: Path) -> None:
    """The words that both language models' tokenizers share."""
    tokenizers = [AutoTokenizer.from_pretrained(demo.folder(f"language_model_{name}")) for name in "ab"]
    captions = [completion[0]["content"] for completion in demo.dataset("train")["completion"]]
    SharedVocabulary.build(tokenizers, captions, demo.sizes.shared_words).save(folder / "vocabulary.json")


def train_langbridge(demo: Demo, folder: Path) -> None:
    """The LangBridge adapter on A; tower and language model are frozen."""
    model, processor = _compose(demo)
    _train_adapter(demo, folder, LangBridgeSFTTrainer, model, processor)


def train_mlp(demo: Demo, folder: Path) -> None:
    """The baseline: stock LLaVA's MLP adapter on A, trained alike."""
    langbridge, processor = _compose(demo)
    model = build_mlp_baseline(langbridge)
    freeze_all_but_mlp(model)
    _train_adapter(demo, folder, SFTTrainer, model, processor)


def _compose(demo: Demo) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    set_seed(demo.seed)
    parts = demo.folder("tower"), demo.folder("language_model_a")
    processor = LangBridgeProcessor.from_vision_text_pretrained(*parts)
    vocabulary = SharedVocabulary.from_file(demo.output_dir / "vocabulary" / "vocabulary.json")
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        *parts, vocabulary, processor, projector_hidden_size=128
    )
    return model, processor


def _train_adapter(
    demo: Demo, folder: Path, trainer_class: type[SFTTrainer], model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    train_adapter(
        trainer_class,
        model,
        processor,
        folder,
        train_dataset=demo.dataset("train"),
        eval_dataset=demo.dataset("held_out"),
        learning_rate=1e-2,
        max_steps=demo.sizes.adapter_steps,
        batch_size=32,
        seed=demo.seed,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_captions(demo: Demo, folder: Path) -> None:
    """Captions of the held-out scenes, by the saved checkpoints through transformers' pipeline."""
    pictures = [images[0] for images in demo.dataset("held_out")["images"]]
    rng = random.Random(demo.seed)
    language_model = AutoModelForCausalLM.from_pretrained(demo.folder("language_model_a"))
    tokenizer = AutoTokenizer.from_pretrained(demo.folder("language_model_a"))
    prompts = [f"{scene.words(rng)}\n{PROMPT}\n" for scene in demo.held_out_scenes]
    captions = {
        "blind": caption_through_pipeline(demo.folder("langbridge"), [None]) * len(pictures),
        "mlp": caption_through_pipeline(demo.folder("mlp"), pictures),
        "langbridge": caption_through_pipeline(demo.folder("langbridge"), pictures),
        "told": complete_prompts(language_model, tokenizer, prompts),
    }
    (folder / "captions.json").write_text(json.dumps(captions, indent=1) + "\n", encoding="utf-8")


# The stages of a group do not need one another and run side by side.
STAGES = [
    {"world": make_world},
    {"samples": write_samples},
    {
        "tower": train_vision_tower,
        "language_model_a": train_language_model_a,
        "language_model_b": train_language_model_b,
    },
    {"vocabulary": build_vocabulary},
    {"langbridge": train_langbridge, "mlp": train_mlp},
    {"captions": write_captions},
]

ADAPTERS = ("langbridge", "mlp")

ROWS = {
    "blind": "language model A, shown nothing",
    "mlp": "MLP adapter (stock LLaVA)",
    "langbridge": "LangBridge adapter",
    "told": "language model A, told the scene's words as text",
}


def run_demo(demo: Demo) -> str:
    """
    Runs the stages that are not done yet; writes results.json, results.md and captions.png; returns the report.

    Raises:
        `FileExistsError`: the output folder is not this demo's.
        `ChildProcessError`: a stage failed.
    """
    claim_output_dir(demo.output_dir, demo.settings)
    start = time.perf_counter()
    groups = [{name: make_stage(stage, demo) for name, stage in group.items()} for group in STAGES]
    seconds = run_stages(demo.output_dir, groups)
    scenes = demo.held_out_scenes
    captions = read_json(demo.output_dir / "captions" / "captions.json")
    accuracy = {name: attribute_accuracy(scenes, answers) for name, answers in captions.items()}
    logs = {name: read_json(demo.output_dir / name / "log.json") for name in ADAPTERS}
    losses = {name: log["test_loss"] for name, log in logs.items()}
    results = {"accuracy": accuracy, "test_loss": losses, "seconds": seconds, "settings": demo.settings}
    report = (
        f"{accuracy_table(scenes, {ROWS[name]: captions[name] for name in ROWS})}\n\n"
        f"Share of the attributes that captions of {len(scenes)} held-out scenes state rightly. "
        "Each scene shows a pair of colour and shape that no training picture showed.\n"
        f"{compare_captions(scenes, ('LangBridge', 'the MLP'), (captions['langbridge'], captions['mlp']))}\n"
        f"Loss per token on their own captions: LangBridge {losses['langbridge']:.3f}, MLP {losses['mlp']:.3f}.\n"
        f"Seconds: {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())}; "
        f"this run {time.perf_counter() - start:.0f} in all.\n"
    )
    shown = {"LangBridge": captions["langbridge"], "MLP": captions["mlp"]}
    with atomic_file(demo.output_dir / "captions.png") as unfinished:
        save_scene_picture(scenes[:8], shown, unfinished)
    with atomic_file(demo.output_dir / "results.md") as unfinished:
        unfinished.write_text(report, encoding="utf-8")
    with atomic_file(demo.output_dir / "results.json") as unfinished:
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return report

# SPDX-License-Identifier: Apache-2.0
"""Tiny training sets and runs."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

from paths import SCRIPTS
from tiny_parts import SENTENCES, make_image

from modeling_langbridge import LangBridgeForConditionalGeneration, SharedVocabulary
from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer


COLOURS = ["red", "blue", "green", "yellow"]
ONE_SIZE = [(48, 40)] * 4
SIZES = [(90, 60), (40, 160), (60, 60), (10, 12)]  # width, height: tiles of 32 pixels in several grids
OPTIONS = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "per_device_train_batch_size": 3,
    "learning_rate": 0.02,
}


def write_samples(
    folder: Path, number: int = 12, text_only=lambda index: index % 5 == 4, sizes: list[tuple[int, int]] = ONE_SIZE
) -> Path:
    """A LLaVA json of one- and two-turn conversations, some about two pictures, some about none."""
    for colour, size in zip(COLOURS, sizes, strict=True):
        make_image(colour, size).save(folder / f"{colour}.png")
    samples = []
    for index in range(number):
        images = [] if text_only(index) else [f"{COLOURS[index % 4]}.png"] * (2 if index % 6 == 5 else 1)
        question = "<image>\n" * len(images) + "what is in the picture?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"a {COLOURS[index % 4]} ball"}]
        if index % 3 == 0:
            turns += [{"from": "human", "value": "where?"}, {"from": "gpt", "value": "on the grass near the dog"}]
        samples.append({"id": f"sample-{index}", "image": images, "conversations": turns})
    path = folder / "samples.json"
    path.write_text(json.dumps(samples))
    return path


def make_trainer(model, processor, dataset, output_dir, callbacks=None, **options) -> LangBridgeSFTTrainer:
    config = LangBridgeSFTConfig(output_dir=str(output_dir), **{**OPTIONS, **options})
    return LangBridgeSFTTrainer(model, config, processor, dataset, callbacks=callbacks)


def losses(trainer) -> list[float]:
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def save_langbridge(
    vision: str, text: str, processor, folder: Path, model_class=LangBridgeForConditionalGeneration, **config_fields
) -> str:
    """Saves a tiny LangBridge whose shared words are words of its tokenizer."""
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
    model = model_class.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=40, **config_fields
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def as_saved(model, processor, folder: Path) -> LangBridgeForConditionalGeneration:
    """A model as it is loaded from where it was saved, as LoRA needs it."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return LangBridgeForConditionalGeneration.from_pretrained(folder)


def load_script(name: str) -> ModuleType:
    """A script as a module, for its parts to be called."""
    path = SCRIPTS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module

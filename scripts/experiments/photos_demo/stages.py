# SPDX-License-Identifier: Apache-2.0
"""The stages of the demo on real photos: words, captions by one or two language models, and a short training."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from experiments.photos_demo.captions import WORDS_PER_IMAGE, write_captions
from experiments.photos_demo.page import render_demo
from experiments.photos_demo.photo_words import write_photo_words
from experiments.photos_demo.report import list_captions, save_picture, say_what_was_shown
from experiments.photos_demo.scene_training import caption_in_fresh_process, train_on_scenes
from experiments.pretrained_parts import fetch_part
from experiments.stages import claim_output_dir, make_stage, run_stages
from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.image_opening import open_image
from modeling_langbridge.reading.patch_words import load_pixels
from modeling_langbridge.utils.files import atomic_file, read_json


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults fill four to eight minutes on two cores."""

    training_steps: int = 36
    held_out_scenes: int = 16


QUICK = Sizes(training_steps=2, held_out_scenes=2)
TOWER = "efficientnet_lite0"
PROJECTOR_HIDDEN_SIZE = 256
LANGUAGE_MODELS = {"smollm2": "SmolLM2-135M-Instruct", "gemma3": "Gemma 3 270M"}


@dataclass(frozen=True)
class Demo:
    """What every stage is given."""

    output_dir: Path
    photos: list[Path]
    sizes: Sizes
    cache_dir: Path | None
    accept_gemma_terms: bool

    @property
    def settings(self) -> dict[str, Any]:
        photos = [str(photo.resolve()) for photo in self.photos]
        return {"demo": "photos", "photos": photos, "sizes": dataclasses.asdict(self.sizes)}

    def part(self, name: str) -> str:
        """The folder of a pretrained part, which is fetched where it is not there yet."""
        return str(fetch_part(name, self.cache_dir, self.accept_gemma_terms))

    def join(self, name: str | None = None) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
        """The adapter that ships with its tower and a language model, or without any."""
        adapter = LangBridgeAdapter.grounded_efficientnet_lite0()
        text = None if name is None else self.part(name)
        return adapter.join(self.part(TOWER), text, words_per_image=WORDS_PER_IMAGE)


def read_words(demo: Demo, folder: Path) -> None:
    """Each photo's words and where they are, by tower and adapter, without any language model."""
    model, processor = demo.join()
    photos = [write_photo_words(model, processor, photo, folder, i) for i, photo in enumerate(demo.photos)]
    (folder / "photos.json").write_text(json.dumps(photos, indent=1) + "\n", encoding="utf-8")


def caption_by_smollm2(demo: Demo, folder: Path) -> None:
    """Captions by SmolLM2, for which nothing was trained."""
    _caption(demo, "smollm2", folder)


def caption_by_gemma3(demo: Demo, folder: Path) -> None:
    """Captions by Gemma 3, with the same adapter."""
    _caption(demo, "gemma3", folder)


def _caption(demo: Demo, name: str, folder: Path) -> None:
    alone, _ = demo.join()
    model, processor = demo.join(name)
    photos = [open_image(photo) for photo in demo.photos]
    pixels = [load_pixels(model, processor, photo)["pixel_values"] for photo in photos]  # (1, 3, height, width) each
    with torch.no_grad():
        pairs = [(alone.get_image_coefficients(one), model.get_image_coefficients(one)) for one in pixels]
    content = {
        "captions": write_captions(model, processor, photos),
        "same_words": all(one.equal(other) for one, other in pairs),
    }
    (folder / "captions.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def train(demo: Demo, folder: Path) -> None:
    """A new adapter of raw coefficients learns drawn scenes through SmolLM2, for about two minutes."""
    set_seed(0)
    parts = demo.part(TOWER), demo.part("smollm2")
    processor = LangBridgeProcessor.from_vision_text_pretrained(*parts)
    vocabulary = LangBridgeAdapter.grounded_efficientnet_lite0().vocabulary
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        *parts, vocabulary, processor, projector_hidden_size=PROJECTOR_HIDDEN_SIZE
    )
    train_on_scenes(model, processor, demo.sizes.training_steps, demo.sizes.held_out_scenes, folder)


def reload(demo: Demo, folder: Path) -> None:
    """The checkpoint captions scenes in a fresh process, through transformers' pipeline."""
    checkpoint = demo.output_dir / "trained" / "checkpoint"
    pictures = sorted((demo.output_dir / "trained").glob("scene_*.png"))
    captions = caption_in_fresh_process(checkpoint, pictures)
    (folder / "captions.json").write_text(json.dumps(captions, indent=1) + "\n", encoding="utf-8")


def run_demo(demo: Demo) -> str:
    """
    Runs the stages that are not done yet; writes page.html and picture.png; returns what was shown and what was not.

    Raises:
        `FileExistsError`: the output folder is not this demo's.
        `OSError`: a pretrained part cannot be fetched.
        `ValueError`: a pretrained part has changed.
    """
    claim_output_dir(demo.output_dir, demo.settings)
    stages = {"words": read_words, "smollm2": caption_by_smollm2}
    if demo.accept_gemma_terms:
        stages["gemma3"] = caption_by_gemma3
    stages |= {"trained": train, "reloaded": reload}
    groups = [{name: make_stage(stage, demo)} for name, stage in stages.items()]
    seconds = run_stages(demo.output_dir, groups)
    found = {
        title: read_json(demo.output_dir / name / "captions.json")
        for name, title in LANGUAGE_MODELS.items()
        if name in stages
    }
    log = read_json(demo.output_dir / "trained" / "log.json")
    same_words = all(one["same_words"] for one in found.values())
    said = say_what_was_shown(list(found), same_words, demo.sizes.training_steps, log["losses"], log["held_out"])
    photos = read_json(demo.output_dir / "words" / "photos.json")
    captions = {title: one["captions"] for title, one in found.items()}
    pictures = sorted((demo.output_dir / "trained").glob("scene_*.png"))
    scenes = list(zip(pictures, read_json(demo.output_dir / "reloaded" / "captions.json"), strict=True))
    page = render_demo(
        photos, captions, demo.sizes.training_steps, log["losses"], scenes, said, demo.output_dir / "words"
    )
    with atomic_file(demo.output_dir / "page.html") as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    with atomic_file(demo.output_dir / "picture.png") as unfinished:
        save_picture(photos, captions, demo.output_dir / "words", unfinished)
    took = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
    where = f"Page: {demo.output_dir / 'page.html'}\nPicture: {demo.output_dir / 'picture.png'}"
    return "\n".join([*list_captions(photos, captions), "", *said, "", f"Seconds: {took}.", where])

# SPDX-License-Identifier: Apache-2.0
"""A callback that previews a LangBridge in training: captions of fixed photos, and how close visual tokens are to
words (the LangBridge paper, arXiv 2503.19404, shows these at pretraining steps 100, 1000 and 2000)."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, extract_model_from_parallel
from peft import PeftModel
from PIL import Image
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback

from modeling_langbridge.reading.fonts import load_font, save_figure
from modeling_langbridge.reading.patch_words import (
    crop_to_patches,
    drop_newlines,
    lay_on_grid,
    name_words,
    write_on_patches,
)
from modeling_langbridge.utils.files import atomic_file, read_json

from ..data.faults import SampleError
from ..data.images import open_image
from ..evaluation.captioning import ask
from .preview_report import draw_closeness, draw_photos, preview_table


LARGEST_GRID = 10  # patches a side, beyond which a word on each cannot be read in the report's picture


def word_closeness(visual_tokens: torch.Tensor, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Finds the word whose embedding points most nearly the way each visual token does.

    Args:
        visual_tokens (`torch.Tensor` of shape `(tokens, d)`): The language model's inputs for a photo.
        embeddings (`torch.Tensor` of shape `(V, d)`): The language model's embeddings of the shared words.

    Returns:
        The largest cosine and the place of its word in `embeddings`, both `torch.Tensor` of shape `(tokens,)`.
    """
    directions = F.normalize(embeddings.float(), dim=-1)  # (V, d)
    cosines = F.normalize(visual_tokens.float(), dim=-1) @ directions.T  # (tokens, V)
    cosine, nearest = cosines.max(-1)  # (tokens,)
    return cosine, nearest


class PhotoPreviewCallback(TrainerCallback):
    r"""
    Captions fixed photos during training and records how close their visual tokens are to words.

    It does so before the first step, every `steps` steps and after the last one. Into the folder `output_dir/preview`
    go `step-000100.json` (the numbers, captions and words), `step-000100.png` (the photos with them), and
    `preview.md` and `closeness.png`, rewritten from all the json files each time. A preview changes nothing that is
    trained, neither the modules' modes nor torch's random numbers: a run with previews equals one without.

    A callback cannot log. Therefore `latest` holds the newest preview's `word_closeness` (the mean cosine) and
    `visual_token_length` (in words' lengths), for the trainer to merge into its next log entry; it is empty before the
    first preview. All processes of a distributed run preview together; process zero writes.

    Args:
        processor ([`ProcessorMixin`]): The model's.
        photos (`list[str | PIL.Image.Image]`): Paths or images, at least one.
        steps (`int`): Training steps between previews.
        output_dir (`str` or `os.PathLike`): The folder in which `preview` is made.
        question (`str`, *optional*, defaults to `"Describe the image."`): Asked about each photo.
        max_new_tokens (`int`, *optional*, defaults to 30): Length at which a caption is cut.

    Raises:
        `ValueError`: there are no photos, one cannot be read, or `steps` is less than 1; and, when a training starts
        from step 0, if the folder holds another training's records.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        photos: list[str | Image.Image],
        steps: int,
        output_dir: str | os.PathLike,
        question: str = "Describe the image.",
        max_new_tokens: int = 30,
    ):
        if steps < 1:
            raise ValueError(f"`steps` is {steps}: give the number of training steps between previews, at least 1.")
        if not photos:
            raise ValueError("`photos` is empty: give at least one photo to preview.")
        self.processor, self.steps, self.question, self.max_new_tokens = processor, steps, question, max_new_tokens
        self.folder = Path(output_dir) / "preview"
        self.latest: dict[str, float] = {}
        self.last_step: int | None = None
        self.names = [
            f"{number}. {'photo' if isinstance(photo, Image.Image) else Path(photo).name}"
            for number, photo in enumerate(photos, 1)
        ]
        self.images = [open_photo(photo) for photo in photos]
        self.views, self.grids = zip(*(crop_to_patches(processor, image) for image in self.images), strict=True)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        extract_model_from_parallel(model, keep_torch_compile=False).config.require_words("A preview of the words")
        # Process zero's folder decides for all, which must preview together or not at all.
        recorded = broadcast_object_list([[record["step"] for record in read_records(self.folder)]])[0]
        if state.global_step == 0 and recorded and self.last_step is None:
            raise ValueError(f"{self.folder} holds another training's records: remove it or name another output_dir.")
        if state.global_step > 0 and state.global_step in recorded:
            self.last_step = state.global_step
        else:
            self.preview(model, state)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.steps == 0:
            self.preview(model, state)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if state.global_step != self.last_step:
            self.preview(model, state)

    def preview(self, model, state):
        """Measures, updates `latest` and, in process zero, writes."""
        model = extract_model_from_parallel(model, keep_torch_compile=False)
        devices = [] if model.device.type == "cpu" else [model.device]
        was_training = model.training
        model.eval()
        # Greedy decoding draws nothing, but a tower may, as those that mask patches do.
        with torch.no_grad(), torch.random.fork_rng(devices, device_type=model.device.type):
            photos, words = self.measure(model)
        model.train(was_training)
        self.last_step = state.global_step
        self.latest = {
            name: sum(photo[name] for photo in photos) / len(photos)
            for name in ("word_closeness", "visual_token_length")
        }
        if state.is_world_process_zero:
            self.write({"step": state.global_step, **self.latest, "photos": photos}, words)

    def measure(self, model: PreTrainedModel) -> tuple[list[dict], list[list[list[str]] | None]]:
        """Each photo's record, and the closest word of each of its patches where visual tokens are patches."""
        bare = model.get_base_model() if isinstance(model, PeftModel) else model  # LoRA stays active inside
        # The same images everywhere: all processes generate equally many tokens. Trainers switch the cache off.
        options = {"max_new_tokens": self.max_new_tokens, "use_cache": True}
        captions = ask(model, self.processor, self.images, self.question, **options)
        pixels = self.processor.image_processor(self.images, return_tensors="pt")
        with gathered_root(model):
            names = name_words(self.processor.tokenizer, bare.model.get_word_ids())
            embeddings = bare.model.get_word_embeddings()  # (V, d)
            pixels = pixels.to(model.device, bare.model.vision_tower.dtype)
            images = bare.get_image_features(**pixels).pooler_output  # photos x (tokens, d)
        photos, words = [], []
        for name, caption, visual_tokens, grid in zip(self.names, captions, images, self.grids, strict=True):
            cosine, nearest = word_closeness(visual_tokens, embeddings)  # (tokens,)
            length = visual_tokens.float().norm(dim=-1).mean() / embeddings.float().norm(dim=-1).mean()
            photos.append(
                {
                    "name": name,
                    "caption": caption,
                    "word_closeness": cosine.mean().item(),
                    "visual_token_length": length.item(),
                    "words": dict(Counter(names[word] for word in nearest.tolist()).most_common(5)),
                }
            )
            if bare.config.words_per_image is None:
                patches = drop_newlines(nearest, grid) if "image_sizes" in pixels else nearest
                rows = lay_on_grid(patches, grid).tolist()
                words.append([[names[word] for word in row] for row in rows])
            else:
                words.append(None)
        return photos, words

    def write(self, record: dict, words: list[list[list[str]] | None]):
        """Adds a preview to the folder and rewrites the table and the curve."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"step-{record['step']:06d}"
        pictures = [
            view if rows is None or max(grid) > LARGEST_GRID else write_on_patches(view, rows, load_font=load_font)
            for view, grid, rows in zip(self.views, self.grids, words, strict=True)
        ]
        with atomic_file(self.folder / f"{name}.png") as path:
            save_figure(draw_photos(record, pictures), path)
        with atomic_file(self.folder / f"{name}.json") as path:
            path.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
        records = read_records(self.folder)
        with atomic_file(self.folder / "closeness.png") as path:
            save_figure(draw_closeness(records), path)
        with atomic_file(self.folder / "preview.md") as path:
            path.write_text(preview_table(records), encoding="utf-8")


@contextmanager
def gathered_root(model: torch.nn.Module) -> Iterator[None]:
    """Gathers the weights that FSDP2 gathers only in the outermost module's own forward, the adapter's among them."""
    if isinstance(model, FSDPModule):
        model.unshard()
        yield
        model.reshard()
    else:
        yield


def open_photo(photo: str | Image.Image) -> Image.Image:
    try:
        return open_image(photo)
    except SampleError as error:
        raise ValueError(f"The photo {photo} cannot be read: {error}.") from error


def read_records(folder: Path) -> list[dict]:
    return sorted(map(read_json, folder.glob("step-*.json")), key=lambda record: record["step"])

# SPDX-License-Identifier: Apache-2.0
"""A callback that shows a LangBridge learning: captions of fixed photos, and how close visual tokens are to words
(the LangBridge paper, arXiv 2503.19404, looks so at pretraining steps 100, 1000 and 2000)."""

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
from transformers import ProcessorMixin, TrainerCallback

from modeling_langbridge.utils.files import atomic_file

from ..data.images import open_image
from ..data.samples import SampleError
from .preview_report import (
    draw_closeness,
    draw_photos,
    preview_table,
    save_figure,
)


def word_closeness(visual_tokens: torch.Tensor, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Finds the word whose embedding points most nearly the way each visual token does.

    Args:
        visual_tokens (`torch.Tensor` of shape `(tokens, d)`): What the language model is handed.
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

    It looks before the first step, every `steps` steps and after the last one. Into the folder `output_dir/preview`
    go `step-000100.json` (the numbers, captions and words), `step-000100.png` (the photos with them), and
    `preview.md` and `closeness.png`, made anew from all the json files each time. A look changes nothing that is
    trained, neither the modules' modes nor torch's random numbers: a run that is watched equals one that is not.

    A callback cannot log. Therefore `latest` holds the newest look's `word_closeness` (the mean cosine) and
    `visual_token_length` (in words' lengths), for the trainer to merge into its next log entry; it is empty before the
    first look. All processes of a distributed run look together; process zero writes.

    Args:
        processor ([`ProcessorMixin`]): The model's.
        photos (`list[str | PIL.Image.Image]`): Paths or images, at least one.
        steps (`int`): Training steps between looks.
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
            raise ValueError(f"`steps` is {steps}: give the number of training steps between looks, at least 1.")
        if not photos:
            raise ValueError("`photos` is empty: give at least one photo to watch.")
        self.processor, self.steps, self.max_new_tokens = processor, steps, max_new_tokens
        self.folder = Path(output_dir) / "preview"
        self.latest: dict[str, float] = {}
        self.last_step: int | None = None
        self.names = [
            f"{number}. {'photo' if isinstance(photo, Image.Image) else Path(photo).name}"
            for number, photo in enumerate(photos, 1)
        ]
        images = [read_photo(photo) for photo in photos]
        content = [[{"type": "image", "image": image}, {"type": "text", "text": question}] for image in images]
        self.inputs = processor.apply_chat_template(
            [[{"role": "user", "content": blocks}] for blocks in content],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"add_special_tokens": False},  # training renders without them
        )
        # What the tower sees of each photo, cropped and scaled, so that patches lie where they are drawn.
        views = processor.image_processor(images, do_normalize=False, do_rescale=False, return_tensors="pt")
        self.views = views["pixel_values"].permute(0, 2, 3, 1).clamp(0, 255).byte().numpy()  # (photos, h, w, 3)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        extract_model_from_parallel(model, keep_torch_compile=False).config.require_words("Watching the words")
        # Process zero's folder decides for all, which must look together or not at all.
        recorded = broadcast_object_list([[record["step"] for record in read_records(self.folder)]])[0]
        if state.global_step == 0 and recorded and self.last_step is None:
            raise ValueError(f"{self.folder} holds another training's records: remove it or name another output_dir.")
        if state.global_step > 0 and state.global_step in recorded:
            self.last_step = state.global_step
        else:
            self.look(model, state)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.steps == 0:
            self.look(model, state)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if state.global_step != self.last_step:
            self.look(model, state)

    def look(self, model, state):
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

    def measure(self, model) -> tuple[list[dict], list[list[str]]]:
        """Returns each photo's record, and the closest word of each of its patches where visual tokens are patches."""
        bare = model.get_base_model() if isinstance(model, PeftModel) else model  # LoRA stays active inside
        inputs = self.inputs.to(model.device, dtype=bare.model.vision_tower.dtype)
        # The same inputs everywhere: all processes generate equally many tokens. Trainers switch the cache off.
        output = model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens, use_cache=True)
        tokenizer = self.processor.tokenizer
        captions = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

        with gathered_root(model):
            token_ids = bare.model.vocabulary_head.token_ids.view(bare.config.bridge_vocab_size, -1)  # (V, pieces)
            embeddings = bare.model.get_word_embeddings()  # (V, d)
            images = bare.get_image_features(inputs["pixel_values"]).pooler_output  # photos x (tokens, d)
        photos, words = [], []
        for name, caption, visual_tokens in zip(self.names, captions, images, strict=True):
            cosine, nearest = word_closeness(visual_tokens, embeddings)
            closest = [readable(tokenizer.decode(ids[ids >= 0])) for ids in token_ids[nearest]]
            words.append(closest if bare.config.words_per_image is None else [])
            length = visual_tokens.float().norm(dim=-1).mean() / embeddings.float().norm(dim=-1).mean()
            photos.append(
                {
                    "name": name,
                    "caption": " ".join(caption.split()),
                    "word_closeness": cosine.mean().item(),
                    "visual_token_length": length.item(),
                    "words": dict(Counter(closest).most_common(5)),
                }
            )
        return photos, words

    def write(self, record: dict, words: list[list[str]]):
        """Adds a look to the folder and makes the table and the curve anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"step-{record['step']:06d}"
        with atomic_file(self.folder / f"{name}.png") as path:
            save_figure(draw_photos(record, self.views, words), path)
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


def read_photo(photo: str | Image.Image) -> Image.Image:
    try:
        return open_image(photo)
    except SampleError as error:
        raise ValueError(f"The photo {photo} cannot be read: {error}.") from error


def read_records(folder: Path) -> list[dict]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("step-*.json")]
    return sorted(records, key=lambda record: record["step"])


def readable(surface: str) -> str:
    """A word without the space before it; white space and control characters as escapes."""
    word = surface.strip()
    return word if word and word.isprintable() else repr(surface)

# SPDX-License-Identifier: Apache-2.0
"""One pass of a frozen vision tower over the images of datasets, whose features a cache keeps."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.dataset_images import DatasetImages
from ..data.faults import errors_of_workers
from ..data.feature_cache import FeatureCache
from ..data.feature_key import hash_content, read_content
from ..data.images import open_image


logger = logging.getLogger(__name__)


class FeatureComputer:
    """
    The frozen tower of a LangBridge and its image processor, which fill a cache.

    Args:
        model (`LangBridgeForConditionalGeneration`): Reads images of one size.
        image_processor (`BaseImageProcessor`): Its image processor.
        accelerator (`Accelerator`): Of the run: device, precision, and the processes that share the work.
        batch_size (`int`): Images at a time.
        num_workers (`int`, *optional*, defaults to 0): Processes that open and prepare images.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        image_processor: BaseImageProcessor,
        accelerator: Accelerator,
        batch_size: int,
        num_workers: int = 0,
    ):
        self.bridge, self.accelerator = model.model, accelerator
        self.batch_size, self.num_workers = batch_size, num_workers
        self.prepare = partial(prepare_image, image_processor)  # without the model: workers may get it pickled

    @contextmanager
    def tower_at_work(self) -> Iterator[None]:
        """Puts the tower on the device, in eval mode, for a block that leaves the random numbers as they were."""
        tower, device = self.bridge.vision_tower, self.accelerator.device
        home, training = tower.device, tower.training
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type):
            tower.to(device).eval()
            try:
                yield
            finally:
                tower.to(home).train(training)

    @torch.no_grad()
    def compute(self, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        """The features `(images, tokens, d_v)`, on the CPU, of prepared images `(channels, height, width)`."""
        tower = self.bridge.vision_tower
        with self.accelerator.autocast():
            stacked = torch.stack(list(pixels)).to(tower.device, tower.dtype)
            return self.bridge.get_vision_features(stacked).pooler_output.cpu()

    def measure(self) -> tuple[int, int]:
        """The shape of an image's features, `(tokens, d_v)`."""
        return tuple(self.compute([self.prepare(Image.new("RGB", (64, 64)))[1]]).shape[1:])

    def fill(self, cache: FeatureCache, datasets: Sequence[Dataset]) -> None:
        """
        Computes the features that a cache lacks of the images of datasets. All processes must call it.

        What was written stays where a run is killed, and is not computed again.

        Raises:
            [`SampleError`]: names the sample whose image cannot be read.
            `ValueError`: features are not finite, or the processes do not share the folder.
            `OSError`: the disk has no room for them.
        """
        with self.tower_at_work():
            images = DatasetImages.find(datasets)
            missing = self.find_missing(cache, images)
            index, number = self.accelerator.process_index, self.accelerator.num_processes
            mine = images.using(self.prepare, list(missing.values())[index::number])
            try:
                for batch in self.load(mine, "Computing features"):
                    keys, pixels = zip(*batch, strict=True)
                    cache.add(keys, self.compute(pixels))
            finally:
                cache.save()
            self.accelerator.wait_for_everyone()
            cache.refresh()
        if any(key not in cache for key in missing):
            raise ValueError(f"{cache.folder.parent} is not the same for all processes: name a folder that all share.")

    def find_missing(self, cache: FeatureCache, images: DatasetImages) -> dict[bytes, int]:
        """The keys of images that a cache lacks, each with the place of one that has it; sees that there is room."""
        index, number = self.accelerator.process_index, self.accelerator.num_processes
        mine = range(index, len(images), number)
        loaded = self.load(images.using(hash_image, mine), "Looking for features")
        found = zip(mine, (key for batch in loaded for key in batch), strict=True)
        keys = {key: place for place, key in sorted(gather_object(list(found)), reverse=True)}
        missing = {key: place for key, place in reversed(keys.items()) if key not in cache}
        missing = broadcast_object_list([missing])[0]  # others may have found what was written meanwhile
        if cache.shape is None:
            cache.shape = self.measure()
        logger.info(
            "Features of %s images: %s are in %s, %s are computed now, %.2f GB.",
            *(f"{len(keys):,}", f"{len(keys) - len(missing):,}", cache.folder, f"{len(missing):,}"),
            len(missing) * cache.bytes_per_image / 1e9,
        )
        cache.require_room(len(missing))
        if self.accelerator.is_main_process:
            cache.remove_abandoned()
        return missing

    def load(self, images: DatasetImages, what: str) -> Iterator[list]:
        """What an image's use gives, for a batch of images at a time, with a progress bar."""
        loader = DataLoader(images, self.batch_size, num_workers=self.num_workers, collate_fn=list)
        hidden = None if self.accelerator.is_local_main_process else True
        with errors_of_workers(), tqdm(total=len(images), desc=what, unit=" images", delay=2, disable=hidden) as bar:
            for batch in loader:
                yield batch
                bar.update(len(batch))


def hash_image(image: Any) -> bytes:
    """An image's key, for which its file is read and nothing decoded."""
    return hash_content(read_content(image))


def prepare_image(image_processor: BaseImageProcessor, image: Any) -> tuple[bytes, torch.Tensor]:
    """An image's key and its pixels, `(channels, height, width)`."""
    content = read_content(image)
    return hash_content(content), image_processor(open_image(content), return_tensors="pt")["pixel_values"][0]

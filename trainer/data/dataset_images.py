# SPDX-License-Identifier: Apache-2.0
"""The images that datasets hold, each file once, for passes over all images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from transformers.utils import logging

from .image_places import file_of
from .samples import naming, read_sample


@dataclass
class DatasetImages:
    """
    Images of datasets' rows, a sequence for a data loader.

    Args:
        datasets (`Sequence[Dataset]`): Rows of any form that [`~trainer.data.samples.read_sample`] knows.
        positions (`list[tuple[int, int, int]]`): Of each image the dataset, the row, and its number in the row.
        use (`Callable[[Any], Any]`, *optional*): Makes an item of an image; as the row holds it by default.

    Raises:
        [`SampleError`]: from an item; the message names the sample.
    """

    datasets: Sequence[Dataset]
    positions: list[tuple[int, int, int]]
    use: Callable[[Any], Any] = lambda image: image

    @classmethod
    def find(cls, datasets: Sequence[Dataset]) -> "DatasetImages":
        """All images of datasets; a file that several rows name counts once."""
        positions, seen = [], set()
        for which, dataset in enumerate(datasets):
            for number, row in enumerate(logging.tqdm(dataset, desc="finding images", unit=" rows", delay=2)):
                with naming(row):
                    images = read_sample(row)["images"]
                for place, image in enumerate(images):
                    file = file_of(image, urls_too=True)
                    if file is None or file not in seen:
                        positions.append((which, number, place))
                        seen.add(file)
        return cls(datasets, positions)

    def using(self, use: Callable[[Any], Any], places: Sequence[int]) -> "DatasetImages":
        """Some of the images, by their places in this sequence, for a use."""
        return replace(self, positions=[self.positions[place] for place in places], use=use)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, place: int) -> Any:
        which, number, position = self.positions[place]
        row = self.datasets[which][number]
        with naming(row):
            return self.use(read_sample(row)["images"][position])

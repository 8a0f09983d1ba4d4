# SPDX-License-Identifier: Apache-2.0
"""Where a training script's images lie, which of them it may read, and what becomes of broken ones."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(kw_only=True)
class ImageArguments:
    """The options of [`~trainer.data.sources.load_training_data`] that are about images, by their names there."""

    image_folder: str | None = field(default=None, metadata={"help": "What relative image paths are relative to."})
    allow_image_urls: bool = field(default=False, metadata={"help": "Fetch images that the data name by URL."})
    allow_paths_outside: bool = field(
        default=False,
        metadata={"help": "Read images whose paths lead out of the image folder (absolute, `..`)."},
    )
    bad_images: Literal["stop", "skip"] = field(
        default="stop",
        metadata={
            "help": "stop: missing image files end the run before training; skip: every image is opened once, and the "
            "samples of missing and broken ones are left out."
        },
    )

    def image_options(self) -> dict[str, Any]:
        """The options by their names."""
        return {name: getattr(self, name) for name in ImageArguments.__annotations__}

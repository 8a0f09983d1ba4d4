# SPDX-License-Identifier: Apache-2.0
"""Training from the cached features of a frozen vision tower, which are computed before the first step."""

from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, Trainer
from transformers.image_processing_utils import BaseImageProcessor

from modeling_langbridge import LangBridgeNextConfig

from ..data.feature_cache import FeatureCache
from ..data.feature_key import describe_features
from .computing import FeatureComputer
from .trial import caching_pays, default_folder


@dataclass
class FeatureCacheArguments:
    """Whether a frozen vision tower's features are kept."""

    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the features of a frozen vision tower, computed once per image, read in every pass; "
            "auto: ~/.cache/langbridge/features, where a short trial finds that it pays."
        },
    )


class FeatureCachingMixin:
    """
    Before [`~transformers.Trainer`] among a trainer's bases: with `feature_cache`, computes the features of all images
    before the first step, and lets the collator read them.

    The model is not touched: it takes features where pixels stood, runs its own tower on pixels, and is saved as ever.
    The `data_collator` of such a trainer reads images from its `features`, where it has some.
    """

    def _get_feature_parts(self) -> tuple[PreTrainedModel, BaseImageProcessor, list[Dataset | IterableDataset]]:
        """The LangBridge, its image processor, and the rows of all datasets that are trained and evaluated on."""
        raise NotImplementedError

    def train(self: Trainer, *args: Any, **kwargs: Any):
        if self.args.feature_cache is not None and self.data_collator.features is None:
            self.data_collator.features = self._prepare_features()
        return super().train(*args, **kwargs)

    def _prepare_features(self: Trainer) -> FeatureCache | None:
        args, (model, image_processor, datasets) = self.args, self._get_feature_parts()
        if any(isinstance(dataset, IterableDataset) for dataset in datasets):
            raise ValueError("`feature_cache` computes the features of all images first: leave it or `streaming` out.")
        if isinstance(model.config, LangBridgeNextConfig):
            raise ValueError(
                "`feature_cache` keeps the features of whole images, not of LangBridge-NeXT's tiles: leave it out."
            )
        identity = describe_features(model, image_processor, self.accelerator.mixed_precision)
        is_auto = args.feature_cache == "auto"
        cache = FeatureCache(default_folder() if is_auto else args.feature_cache, identity)
        computer = FeatureComputer(
            *(model, image_processor, self.accelerator, args.train_batch_size, args.dataloader_num_workers)
        )
        if is_auto and not caching_pays(computer, cache, datasets, self._count_passes()):
            return None
        computer.fill(cache, datasets)
        return cache

    def _count_passes(self: Trainer) -> float:
        """How often the run goes over its images."""
        args = self.args
        if args.max_steps <= 0:
            return args.num_train_epochs
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return args.max_steps * step / len(self.train_dataset)

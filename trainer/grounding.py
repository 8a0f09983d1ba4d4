# SPDX-License-Identifier: Apache-2.0
"""The grounding stage: an adapter learns to predict the words of a photo's captions, without a language model.

The result is an adapter alone (`adapter.safetensors` and its words), which works with any language model.
"""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Trainer,
    TrainingArguments,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
)
from modeling_langbridge.adapter.placeholder import placeholder_language_model

from .checkpointing.checkpoints import clear_for_adapter
from .checkpointing.output_folder import saving_to
from .checkpointing.resuming import ResumingMixin, describe_run
from .data.caption_words import CaptionWords, caption_of
from .data.dataset_rows import as_rows
from .data.feature_cache import FeatureCache
from .data.image_places import path_of
from .data.images import open_image
from .data.samples import naming, read_sample
from .device import fit_options_to_machine
from .features.caching import FeatureCacheArguments, FeatureCachingMixin
from .objectives.word_prediction import (
    WordPredictionArguments,
    weigh_words,
    word_prediction_loss,
    word_targets,
)
from .option_values import FROM_0_TO_BELOW_1, TrainingOptions, check_values
from .publishing.publishing import PublishingMixin, check_publishing
from .publishing.recorder import TrainedPart, TrainingRecorder, name_origins
from .run_plan import RunPlan


@dataclass
class GroundingConfig(FeatureCacheArguments, WordPredictionArguments, TrainingOptions, TrainingArguments):
    """
    transformers' [`~transformers.TrainingArguments`] and what the objective weighs.

    Without a GPU it uses the CPU.

    Raises:
        `ValueError`: names an option whose value is not of its type or its range.
    """

    _argument_group_name = "training"

    patch_dropout: Annotated[float, FROM_0_TO_BELOW_1] = field(
        default=0.0,
        metadata={"help": "Share of an image's patches that a training step leaves out, others each time."},
    )
    report_to: None | str | list[str] = field(
        default="tensorboard", metadata={"help": "Where metrics go: tensorboard, wandb, trackio …, all or none."}
    )

    def __post_init__(self):
        check_values(self)
        fit_options_to_machine(self)
        super().__post_init__()
        check_publishing(self)
        self.remove_unused_columns = False
        self.label_names = ["word_targets"]


def compose_for_grounding(
    vision: str | PreTrainedModel,
    vocabulary: SharedVocabulary,
    model_class: type[LangBridgeForConditionalGeneration] = LangBridgeForConditionalGeneration,
    **config_fields: Any,
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    A LangBridge with a fresh adapter and a placeholder for a language model, and its processor.

    Args:
        vision (`str` or `PreTrainedModel`): Hub id, folder or loaded model of the vision tower.
        vocabulary (`SharedVocabulary`): The words of the coefficients.
        model_class (`type`, *optional*, defaults to [`LangBridgeForConditionalGeneration`]):
            That, or [`LangBridgeNextForConditionalGeneration`] for photos in tiles.
        config_fields: As for [`LangBridgeForConditionalGeneration.from_vision_text_pretrained`].
    """
    text, tokenizer = placeholder_language_model(vocabulary)
    processor = model_class.processor_class.from_vision_text_pretrained(vision, text, tokenizer=tokenizer)
    model = model_class.from_vision_text_pretrained(vision, text, vocabulary, processor, **config_fields)
    return model, processor


class GroundingModel(nn.Module):
    """
    The word prediction of a LangBridge's adapter: everything else of it is frozen and most of it never used.

    Args:
        langbridge ([`LangBridgeForConditionalGeneration`]): with `coefficient_activation` softmax or gated_softmax.
        patch_dropout (`float`, *optional*, defaults to 0.0): share of an image's patches left out in training.
    """

    def __init__(self, langbridge: LangBridgeForConditionalGeneration, patch_dropout: float = 0.0):
        super().__init__()
        self.patch_dropout = patch_dropout
        if langbridge.model.vocabulary_head.activation == "linear":
            raise ValueError(
                "Grounding needs distributions: set `coefficient_activation` to gated_softmax or softmax."
            )
        self.langbridge = langbridge.requires_grad_(False)
        self.langbridge.model.multi_modal_projector.requires_grad_(True)
        self.langbridge.model.vocabulary_head.requires_grad_(True)

    def forward(self, word_targets: torch.Tensor, **pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            word_targets (`torch.Tensor` of shape `(images, V)`):
                From [`~trainer.objectives.word_prediction.word_targets`].
            pixels:
                What the image processor makes of one image a sample: `pixel_values`, and `image_sizes` for tiles.

        Returns:
            `dict` with `loss` and the patches' mean `entropy`, in nats, and `words`, the positions of each image's ten
            strongest words, `(images, 10)`.
        """
        bridge = self.langbridge.model
        images = bridge.get_patch_features(**pixels)  # images x (tokens, d_v)
        # Images in tiles have different numbers of patches; others are pooled together.
        alike = len({len(image) for image in images}) == 1
        batches = [torch.stack(images)] if alike else [image[None] for image in images]  # (images, tokens, d_v)
        if self.training and self.patch_dropout:
            batches = [drop_patches(batch, self.patch_dropout) for batch in batches]  # (images, kept tokens, d_v)
        pools = [bridge.vocabulary_head(bridge.multi_modal_projector(batch), pool=True) for batch in batches]
        pooled, entropy = (torch.cat(parts) for parts in list(zip(*pools, strict=True))[:2])  # (images, V), (images,)
        return {
            "loss": word_prediction_loss(pooled, word_targets),
            "entropy": entropy.detach().mean(),
            "words": pooled.topk(min(10, pooled.shape[1])).indices,
        }


def drop_patches(features: torch.Tensor, share: float) -> torch.Tensor:
    """
    Leaves out a share of each image's patches `(images, tokens, d_v)`, at random, but never all.

    It is less to compute, and an image's words cannot hang on a single patch. Source: Li et al., "Scaling
    Language-Image Pre-training via Masking", arXiv 2212.00794, section 3.
    """
    images, tokens, _ = features.shape
    kept = max(1, round(tokens * (1 - share)))
    chosen = torch.rand(images, tokens, device=features.device).topk(kept).indices  # (images, kept)
    return features.take_along_dim(chosen[..., None], dim=1)


class RowsByImage(torch.utils.data.Dataset):
    """Rows of the same image file as one item, since each caption names only a part of what the image shows."""

    def __init__(self, rows: Dataset):
        items: dict[str | int, list[int]] = {}
        for position, row in enumerate(logging.tqdm(rows, desc="finding images", unit=" rows", delay=2)):
            image = read_sample(row)["images"][0]
            # Images kept in the dataset itself may all have the same name.
            is_file = isinstance(image, str | Path) or (isinstance(image, dict) and not image.get("bytes"))
            items.setdefault(path_of(image) if is_file else position, []).append(position)
        self.rows, self.positions = rows, list(items.values())

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int) -> list[dict[str, Any]]:
        return [self.rows[position] for position in self.positions[item]]


class GroundingCollator:
    """
    Items of [`RowsByImage`], in any form that [`~trainer.data.samples.read_sample`] knows, to a batch. Images are read
    from `features`, a [`~trainer.data.feature_cache.FeatureCache`], where there is one.
    """

    def __init__(self, processor: ProcessorMixin, words: CaptionWords, weights: torch.Tensor):
        self.processor, self.words, self.weights = processor, words, weights
        self.features: FeatureCache | None = None

    def __call__(self, items: list[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
        images, found = [], []
        read = open_image if self.features is None else self.features.read
        for rows in items:
            with naming(rows[0]):
                images.append(read(read_sample(rows[0])["images"][0]))
            found.append([word for row in rows for word in self.words.find(caption_of(read_sample(row)))])
        if self.features is not None:
            pixels = self.features.stack(images)
        else:
            pixels = self.processor.image_processor(images, return_tensors="pt")
        return {**pixels, "word_targets": word_targets(found, self.weights)}


def with_one_image(dataset: Dataset) -> Dataset:
    """The rows with one image."""
    kept = as_rows(dataset).filter(lambda row: len(read_sample(row)["images"]) == 1, desc="Finding single images")
    if not len(kept):
        raise ValueError("No sample has one image, which grounding learns from.")
    return kept


class GroundingTrainer(ResumingMixin, FeatureCachingMixin, PublishingMixin, Trainer):
    """
    transformers' [`~transformers.Trainer`] for the grounding stage; every save is an adapter alone, in `adapter`.

    Args:
        langbridge ([`LangBridgeForConditionalGeneration`]): from [`compose_for_grounding`].
        args ([`GroundingConfig`]): of the training.
        processing_class ([`LangBridgeProcessor`]): the model's.
        vocabulary (`SharedVocabulary`): the words of its coefficients.
        train_dataset, eval_dataset (`Dataset`):
            Rows of one image and a caption; rows of the same image file count as one image with all their captions.
        dataset_name, eval_dataset_name (`str`, *optional*):
            What they were loaded from, for the record and the card: a Hub id, or a path, whose last part is written.
    """

    published = "adapter"

    def __init__(
        self,
        langbridge: LangBridgeForConditionalGeneration,
        args: GroundingConfig,
        processing_class: ProcessorMixin,
        vocabulary: SharedVocabulary,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        dataset_name: str | None = None,
        eval_dataset_name: str | None = None,
        **kwargs: Any,
    ):
        words, train_dataset = CaptionWords(vocabulary), with_one_image(train_dataset)
        weights = weigh_words(words, train_dataset, args.frequency_power)
        super().__init__(
            GroundingModel(langbridge, args.patch_dropout),
            args,
            data_collator=GroundingCollator(processing_class, words, weights),
            train_dataset=RowsByImage(train_dataset),
            eval_dataset=None if eval_dataset is None else RowsByImage(with_one_image(eval_dataset)),
            compute_metrics=word_precision,
            **kwargs,
        )
        self.tokenizer: PreTrainedTokenizerBase = processing_class.tokenizer
        self.add_callback(RunPlan)
        self.entropies: list[float] = []
        self.recorder = TrainingRecorder(self, langbridge, dataset_name, eval_dataset_name)
        trained = ("projector", "vocabulary_head")
        self.run_settings = describe_run(
            *(args, train_dataset, dataset_name),
            parts=dict.fromkeys(trained, "full"),
            learning_rates=dict.fromkeys(trained, args.learning_rate),
        )
        self.add_callback(self.run_settings)

    def _get_feature_parts(self) -> tuple[PreTrainedModel, BaseImageProcessor, list[Dataset]]:
        langbridge = self.accelerator.unwrap_model(self.model).langbridge
        datasets = [dataset.rows for dataset in (self.train_dataset, self.eval_dataset) if dataset is not None]
        return langbridge, self.data_collator.processor.image_processor, datasets

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any):
        outputs = model(**inputs)
        if model.training:
            self.entropies.append(outputs["entropy"].item())
        return (outputs["loss"], {"words": outputs["words"]}) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["entropy"] = fmean(self.entropies)
            self.entropies = []
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        with saving_to(Path(output_dir or self.args.output_dir), Path(self.args.output_dir)) as folder:
            super()._save(str(folder), state_dict)
            clear_for_adapter(folder)
            langbridge = self.accelerator.unwrap_model(self.model).langbridge
            LangBridgeAdapter.from_model(langbridge, self.tokenizer).save_pretrained(folder / "adapter")
            # A checkpoint's rate holds, whatever the arguments say.
            rate = self.lr_scheduler.base_lrs[0] if self.lr_scheduler else self.args.learning_rate
            learnt = TrainedPart(mode="full", learning_rate=float(rate))
            parts = {"vision_tower": TrainedPart(mode="frozen"), "projector": learnt, "vocabulary_head": learnt}
            self.recorder.write(folder / "adapter", name_origins(parts, langbridge), objectives={})


def word_precision(prediction: Any) -> dict[str, float]:
    """Of the ten strongest words of an image's pooled coefficients, the share that its caption uses."""
    words, targets = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)  # (n, 10), (n, V)
    return {"word_precision": (targets.gather(1, words) > 0).float().mean().item()}

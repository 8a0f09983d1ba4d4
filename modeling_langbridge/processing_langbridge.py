# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""LangBridge processor: LLaVA's, composed of the image processor and the tokenizer of its parts."""

import copy

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    GenerationConfig,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import MultiModalData
from transformers.utils import auto_docstring

from .chat_templates import add_missing_tokens, adds_bos, begins_with_bos, find_end_of_turn
from .image_opening import open_image, open_images
from .video_opening import open_video, open_videos


def find_vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The vision tower's configuration, also inside that of a model with a text encoder (CLIP, SigLIP)."""
    return config.vision_config if "vision_config" in config.sub_configs else config


def load_vision_tower(vision: str | PreTrainedModel) -> PreTrainedModel:
    """Loads a vision tower, or takes it out of a model that joins it with a text encoder, as CLIP and SigLIP do."""
    if isinstance(vision, PreTrainedModel):
        return vision if find_vision_config(vision.config) is vision.config else vision.vision_model
    return AutoModel.from_pretrained(vision, config=find_vision_config(AutoConfig.from_pretrained(vision)))


def measure_vision_tower(
    vision_config: PreTrainedConfig, image_processor: BaseImageProcessor
) -> tuple[torch.Size, torch.Size]:
    """Finds the input and output shapes of a vision tower by running its architecture on the meta device.

    Returns:
        The shapes of its input `(1, channels, height, width)` and of its output: `(1, tokens, d_v)`, or
        `(1, d_v, rows, columns)` from a convolutional tower.

    Raises:
        `ValueError`: the tower has other inputs than `pixel_values`.
    """
    inputs = image_processor(Image.new("RGB", (64, 64)), return_tensors="pt")
    pixel_values = inputs["pixel_values"]
    has_tiles = len(pixel_values.shape) == 5
    others = sorted(inputs.keys() - {"pixel_values"} - ({"image_sizes"} if has_tiles else set()))
    if others:
        raise ValueError(
            f"The vision tower `{vision_config.model_type}` needs {others} beside `pixel_values`: use a "
            "fixed-resolution checkpoint instead (for SigLIP 2, such as google/siglip2-base-patch16-224)."
        )
    pixel_values = pixel_values[:, 0] if has_tiles else pixel_values  # (1, channels, height, width)
    with torch.device("meta"):
        tower = AutoModel.from_config(vision_config)
        return pixel_values.shape, tower(pixel_values.to("meta")).last_hidden_state.shape


@auto_docstring
class LangBridgeProcessor(LlavaProcessor):
    # Loading keeps only settings that are named here.
    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        patch_size=None,
        vision_feature_select_strategy=None,
        chat_template=None,
        image_token="<image>",
        num_additional_image_tokens=0,
        words_per_image=None,
        pool_patches=1,
        **kwargs,
    ):
        r"""
        patch_size (`int`, *optional*):
            Width of what a visual token stands for, in pixels: a patch of the vision tower, or `pool_patches` of them.
        vision_feature_select_strategy (`str`, *optional*):
            As of the model's [`LangBridgeConfig`].
        image_token (`str`, *optional*, defaults to `"<image>"`):
            The token that marks the place of an image.
        num_additional_image_tokens (`int`, *optional*, defaults to 0):
            Number of tokens of the vision tower beside its patches, such as CLS.
        words_per_image (`int`, *optional*):
            As of the model's [`LangBridgeConfig`].
        pool_patches (`int`, *optional*, defaults to 1):
            As of the model's [`LangBridgeConfig`].
        """
        if words_per_image is not None and (type(words_per_image) is not int or words_per_image < 1):
            raise ValueError(f"`words_per_image` is {words_per_image!r}: give a whole number of at least 1, or None.")
        self.words_per_image, self.pool_patches = words_per_image, pool_patches
        if tokenizer is not None:
            # A prompt is continued at its right end. Few tokenizers say so, and most pad there by default.
            tokenizer.padding_side = "left"
        super().__init__(
            image_processor,
            tokenizer,
            patch_size=patch_size,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            num_additional_image_tokens=num_additional_image_tokens,
        )
        # LLaVA's own calls LLaVA-NeXT's in a LangBridgeNextProcessor, without them.
        self.patch_size, self.num_additional_image_tokens = patch_size, num_additional_image_tokens
        self.vision_feature_select_strategy = vision_feature_select_strategy

    def get_config_fields(self) -> dict:
        """The fields of a model's configuration that its processor decides."""
        return {
            "words_per_image": self.words_per_image,
            "pool_patches": self.pool_patches,
            "image_token_index": self.image_token_id,
            "image_seq_length": self.num_image_tokens,
            "vision_feature_select_strategy": self.vision_feature_select_strategy,
        }

    @auto_docstring
    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs):
        texts = [text] if isinstance(text, str) else text or []
        text_kwargs = kwargs.get("text_kwargs", {})
        adds_special_tokens = {**kwargs, **text_kwargs}.get("add_special_tokens", True)
        if adds_special_tokens and all(isinstance(one, str) for one in texts):
            has_bos = [begins_with_bos(self.tokenizer, one) for one in texts]
            if any(has_bos) and adds_bos(self.tokenizer):
                # A chat template wrote the token. The tokenizer adds one to all texts or to none.
                bos = self.tokenizer.bos_token
                text = [one if begins else bos + one for one, begins in zip(texts, has_bos, strict=True)]
                kwargs.pop("add_special_tokens", None)
                kwargs["text_kwargs"] = {**text_kwargs, "add_special_tokens": False}
        return super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        if self.words_per_image is not None:
            return self.image_token * self.words_per_image
        return super().replace_image_token(image_inputs, image_idx, **kwargs)

    def prepare_inputs_layout(self, images=None, **kwargs):
        return super().prepare_inputs_layout(images=open_images(images), **kwargs)

    # Public, for images that are given to `image_processor` itself.
    open_image = staticmethod(open_image)
    open_video = staticmethod(open_video)

    def apply_chat_template(self, conversation, *args, num_frames=None, fps=None, **kwargs):
        """
        As transformers' own, with videos as their frames.

        A block `{"type": "video", "path": ...}` (or `"video"`) becomes a block of an image for each frame that
        [`open_video`] gives.

        Args:
            conversation, args, kwargs:
                As of `ProcessorMixin.apply_chat_template`.
            num_frames (`int`, *optional*, defaults to 8):
                Number of frames of each video; at most all that it has.
            fps (`float`, *optional*):
                Frames a second, instead of `num_frames`.

        Raises:
            As [`open_video`].
        """
        if options := kwargs.get("processor_kwargs"):  # where transformers has them
            options = kwargs["processor_kwargs"] = dict(options)
            num_frames, fps = options.pop("num_frames", num_frames), options.pop("fps", fps)
        return super().apply_chat_template(open_videos(conversation, num_frames, fps), *args, **kwargs)

    @property
    def num_image_tokens(self) -> int:
        """Number of visual tokens per image, the same for every image."""
        images = self.image_processor(Image.new("RGB", (64, 64)), return_tensors="pt")
        return self.replace_image_token(images, 0).count(self.image_token)

    def complete_generation_config(self, generation_config: GenerationConfig) -> GenerationConfig:
        """
        Adds to generation settings what a model with this processor needs, whatever they come from.

        Answers also end where the chat template ends a turn, which a base language model does not know of. An image
        placeholder is not generated: it would have no image when the answer is read again.

        Args:
            generation_config (`GenerationConfig`): The settings, which stay as they are.

        Returns:
            `GenerationConfig`: a copy with `eos_token_id`, `pad_token_id` and `suppress_tokens` completed.
        """
        completed = copy.deepcopy(generation_config)
        chat_template = self.chat_template["default"] if isinstance(self.chat_template, dict) else self.chat_template
        try:
            end_of_turn = find_end_of_turn(self.tokenizer, chat_template)
        except Exception:  # a template may fail in as many ways as there are templates; training reports it
            end_of_turn = None
        ends = completed.eos_token_id if isinstance(completed.eos_token_id, list) else [completed.eos_token_id]
        ends = [*ends, None if end_of_turn is None else self.tokenizer.convert_tokens_to_ids(end_of_turn)]
        ends = [token_id for token_id in dict.fromkeys(ends) if token_id is not None]
        completed.eos_token_id = ends[0] if len(ends) == 1 else ends or None
        completed.pad_token_id = self.tokenizer.pad_token_id
        completed.suppress_tokens = [*dict.fromkeys([*(completed.suppress_tokens or []), self.image_token_id])]
        return completed

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        if image_sizes is None:
            return MultiModalData()
        return MultiModalData(
            num_image_tokens=[self.num_image_tokens] * len(image_sizes), num_image_patches=[1] * len(image_sizes)
        )

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | PreTrainedModel,
        text: str | PreTrainedModel,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        words_per_image: int | None = None,
        pool_patches: int = 1,
    ) -> "LangBridgeProcessor":
        r"""Composes the processor of a vision tower and a language model.

        It adds an `<image>` token to the tokenizer and, where they are missing, a pad token and a chat template. An
        existing template is extended so that messages can hold `{"type": "image"}` blocks.

        Args:
            vision (`str` or `PreTrainedModel`): Hub id, folder or loaded model of the vision tower.
            text (`str` or `PreTrainedModel`): Hub id, folder or loaded model of the language model.
            image_processor (`BaseImageProcessor`, *optional*): Loaded from the source of `vision` when left out.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Loaded from the source of `text` when left out.
            words_per_image (`int`, *optional*), pool_patches (`int`, *optional*, defaults to 1):
                As of the model's [`LangBridgeConfig`].

        Raises:
            `ValueError`: the vision tower is not supported, its patches cannot be pooled, or the source of a loaded
            model is unknown.
        """
        vision_config = vision.config if isinstance(vision, PreTrainedModel) else AutoConfig.from_pretrained(vision)
        vision_config = find_vision_config(vision_config)
        if image_processor is None:
            image_processor = AutoImageProcessor.from_pretrained(source_of(vision, "image_processor"))
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(source_of(text, "tokenizer"))
        add_missing_tokens(tokenizer)
        (*_, height, width), features = measure_vision_tower(vision_config, image_processor)
        is_map = len(features) == 4
        patch_size = height // features[2] if is_map else vision_config.patch_size
        num_tokens = features[2] * features[3] if is_map else features[1]
        num_patches = (height // patch_size) * (width // patch_size)
        if num_tokens < num_patches or (is_map and num_tokens > num_patches):
            raise ValueError(
                f"The vision tower `{vision_config.model_type}` gives {num_tokens} tokens for an image of {height} x "
                f"{width} pixels, not a grid of {patch_size}-pixel patches: give the image processor another size."
            )
        rows, columns = height // patch_size, width // patch_size
        is_square = rows == columns and num_tokens - num_patches <= 1  # tokens beside the patches have no place
        if pool_patches > 1 and (not is_square or rows % pool_patches):
            raise ValueError(
                f"`pool_patches` is {pool_patches}, but the vision tower `{vision_config.model_type}` has {rows} x "
                f"{columns} patches and {num_tokens - num_patches} tokens beside them: it must be a square that "
                f"{pool_patches} divides, with one token beside it at most."
            )
        return cls(
            image_processor,
            tokenizer,
            words_per_image=words_per_image,
            pool_patches=pool_patches,
            patch_size=patch_size * pool_patches,
            # The first of the additional tokens, CLS, is dropped; registers stay.
            vision_feature_select_strategy="default" if num_tokens > num_patches else "full",
            num_additional_image_tokens=num_tokens - num_patches,
            chat_template=tokenizer.chat_template,
        )


def source_of(model: str | PreTrainedModel, argument: str) -> str:
    """The Hub id or folder that a model was loaded from."""
    source = model.name_or_path if isinstance(model, PreTrainedModel) else model
    if not source:
        raise ValueError(f"A model that was not loaded from the Hub or a folder needs the argument `{argument}`.")
    return source


__all__ = ["LangBridgeProcessor"]

# SPDX-License-Identifier: Apache-2.0
"""Photos and captions as words: what an adapter says of a photo, with its language model or without any."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaConfig,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_utils import BaseImageProcessor

from modeling_langbridge import (
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeModel,
    LangBridgeProcessor,
    SharedVocabulary,
)
from modeling_langbridge.adapter import CONFIGURATION, FILES, WEIGHTS, describe, differences, read_configuration
from modeling_langbridge.errors import first_line
from modeling_langbridge.hub import find_folder
from modeling_langbridge.modeling_langbridge import (
    LangBridgeMultiModalProjector,
    LangBridgeVocabularyHead,
    load_vision_tower,
)
from modeling_langbridge.processing_langbridge import measure_vision_tower

from .assignment_prediction import word_scores
from .images import open_image


PHOTOS_AT_ONCE, CAPTIONS_AT_ONCE = 16, 64
TEMPERATURE = 0.01  # VLAP's


def open_model(
    name: str, device_map: str | None = "auto"
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    Loads a LangBridge checkpoint, of any adapter type, for inference, with its processor.

    Args:
        name (`str`): Hub id or folder.
        device_map (`str`, *optional*, defaults to `"auto"`): where it is put, as of transformers; `None` is the CPU.

    Raises:
        `ValueError`: `name` is no folder or Hub id of one.
    """
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)  # says so where it is an adapter alone
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=False, device_map=device_map)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} must be the folder or Hub id of a LangBridge checkpoint ({first_line(error)})."
        ) from error
    if not isinstance(model, LangBridgeForConditionalGeneration):
        raise ValueError(f"{name} holds a {type(model).__name__}: give a LangBridge checkpoint.")
    return model, processor


def open_adapter(
    folder: str | os.PathLike, vision: str
) -> tuple[LangBridgeModel, BaseImageProcessor, SharedVocabulary]:
    """
    Joins a saved adapter with its vision tower alone. The language model of what is returned has no weights.

    Args:
        folder (`str` or `os.PathLike`): what [`~modeling_langbridge.save_adapter`] wrote, or its Hub id.
        vision (`str`): Hub id or folder of the vision tower that the adapter was trained with.

    Raises:
        `OSError`, `ValueError`: a file of the adapter is missing or damaged, or the tower is another.
    """
    folder = find_folder(folder, FILES)
    shape, vocabulary = read_configuration(folder)
    image_processor = AutoImageProcessor.from_pretrained(vision)
    tower = load_vision_tower(vision)
    _, features = measure_vision_tower(tower.config, image_processor)
    tower.config.hidden_size = features[1] if len(features) == 4 else features[2]
    config = LangBridgeConfig(
        vision_config=tower.config,
        text_config=LlamaConfig(vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=1, num_attention_heads=1),
        **{name: value for name, value in shape.items() if name not in ("vision_feature_size", "vision_model_type")},
    )
    if wrong := differences(shape, describe(config)):
        raise ValueError(f"{folder / CONFIGURATION} does not fit the vision tower {vision} ({wrong}).")
    parts = nn.ModuleDict(
        {
            "multi_modal_projector": LangBridgeMultiModalProjector(config),
            "vocabulary_head": LangBridgeVocabularyHead(config),
        }
    )
    try:
        weights = load_file(folder / WEIGHTS)
        parts.load_state_dict({**weights, "vocabulary_head.token_ids": torch.arange(len(vocabulary))})
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / WEIGHTS} is damaged ({reason}): save the adapter anew.") from None
    with torch.device("meta"):
        bridge = LangBridgeModel(config)
    for name, part in (("vision_tower", tower), *parts.items()):
        # The language model stays on the meta device: it has no weights to move.
        setattr(bridge, name, part.to("cuda" if torch.cuda.is_available() else "cpu"))
    return bridge.eval(), image_processor, vocabulary


@torch.no_grad()
def find_words(
    model: LangBridgeForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    path: str | None = None,
    size: int | None = None,
) -> tuple[SharedVocabulary, Tensor]:
    """
    The words to read a model in: its own, or, where the adapter has none, a vocabulary's that its tokenizer has.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): of any adapter type.
        tokenizer ([`PreTrainedTokenizerBase`]): of its language model.
        path (`str`, *optional*), size (`int`, *optional*): as for [`SharedVocabulary.load`].

    Returns:
        The V words, and the language model's embeddings of them, `(V, d)`.

    Raises:
        `ValueError`: a vocabulary is given for an adapter that has its own.
    """
    if model.config.adapter_type != "langbridge":
        vocabulary = SharedVocabulary.load(path, size).restricted_to(tokenizer)
        token_ids = torch.tensor(vocabulary.token_ids(tokenizer), device=model.device)  # (V,)
        return vocabulary, model.get_input_embeddings()(token_ids)
    if path is not None or size is not None:
        raise ValueError("This adapter is made of words of its own: leave out --vocabulary and --vocab_size.")
    token_ids = model.model.vocabulary_head.token_ids.tolist()
    return SharedVocabulary.from_token_ids(tokenizer, token_ids), model.model.get_word_embeddings()


def gives_distributions(config: LangBridgeConfig) -> bool:
    """Whether the coefficients are a distribution over the words, which can be read without a language model."""
    return config.adapter_type == "langbridge" and config.coefficient_activation != "linear"


@torch.no_grad()
def pool_photos(bridge: LangBridgeModel, image_processor: BaseImageProcessor, photos: Sequence[Any]) -> Tensor:
    """
    Each photo's coefficients, pooled over its patches by their gates, as grounding trains them.

    Args:
        bridge ([`LangBridgeModel`]): with coefficients that are distributions.
        image_processor ([`BaseImageProcessor`]): of its vision tower.
        photos (`Sequence`): anything that [`~trainer.images.open_image`] opens.

    Returns:
        `torch.Tensor` of shape `(photos, V)`, float32 on the CPU; every row sums to 1.
    """
    pooled = []
    for pixel_values in pixel_batches(bridge, image_processor, photos):
        hidden_states = bridge.multi_modal_projector(bridge.get_vision_features(pixel_values).pooler_output)
        pooled.append(bridge.vocabulary_head.pool(hidden_states).distribution.cpu())
    return torch.cat(pooled)


@torch.no_grad()
def mean_tokens(
    model: LangBridgeForConditionalGeneration, image_processor: BaseImageProcessor, photos: Sequence[Any]
) -> Tensor:
    """
    The mean of each photo's visual tokens, with an adapter of any type.

    Args: as for [`pool_photos`], but for the whole model.

    Returns:
        `torch.Tensor` of shape `(photos, d)`, float32 on the CPU.
    """
    batches = pixel_batches(model.model, image_processor, photos)
    return torch.cat([visual_tokens(model, pixel_values).float().mean(1).cpu() for pixel_values in batches])


def visual_tokens(model: LangBridgeForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """What the language model is handed of each photo, `(photos, tokens, d)`."""
    return torch.stack(model.get_image_features(pixel_values).pooler_output)


def score_means(means: Tensor, embeddings: Tensor) -> Tensor:
    """Cosine of each mean visual token `(photos, d)` with each word `(V, d)`: `(photos, V)` on the CPU."""
    states = means[:, None].to(embeddings.device)  # (photos, 1, d)
    return word_scores(states, torch.ones(states.shape[:2]).to(states.device), embeddings).cpu()


@torch.no_grad()
def score_captions(
    model: LangBridgeForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    captions: Sequence[str],
    embeddings: Tensor,
) -> Tensor:
    """
    Cosine between the mean of the language model's states of each caption, read alone, and each word.

    Returns:
        `torch.Tensor` of shape `(captions, V)`, float32 on the CPU.

    Source: Park et al., "VLAP", arXiv 2404.09632.
    """
    scores = []
    for start in tqdm(
        range(0, len(captions), CAPTIONS_AT_ONCE), desc="captions", unit=f" x {CAPTIONS_AT_ONCE}", delay=1
    ):
        batch = list(captions[start : start + CAPTIONS_AT_ONCE])
        inputs = tokenizer(batch, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
        states = model.model.language_model(input_ids=ids, attention_mask=mask).last_hidden_state
        scores.append(word_scores(states, mask, embeddings).cpu())
    return torch.cat(scores)


def assign(scores: Tensor) -> Tensor:
    """VLAP's assignment of photos or captions to the words, `(..., V)`, of their cosines with them."""
    return (scores.float() / TEMPERATURE).softmax(-1)


def pixel_batches(
    bridge: LangBridgeModel, image_processor: BaseImageProcessor, photos: Sequence[Any]
) -> Iterator[Tensor]:
    """The photos' pixels `(photos, channels, height, width)`, a few at a time, as and where the tower wants them."""
    with tqdm(total=len(photos), desc="photos", unit=" photos", delay=1) as progress:
        for start in range(0, len(photos), PHOTOS_AT_ONCE):
            images = [open_image(photo) for photo in photos[start : start + PHOTOS_AT_ONCE]]
            pixel_values = image_processor(images, return_tensors="pt")["pixel_values"]
            yield pixel_values.to(bridge.vision_tower.device, bridge.vision_tower.dtype)
            progress.update(len(images))

# SPDX-License-Identifier: Apache-2.0
"""The adapter put on a language model: the one it was trained with, or any other that has its words.

An adapter knows words and no language model, so another one, of another family and width, needs nothing but to be told
where it keeps these words (LangBridge, arXiv 2503.19404).
"""

import os

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .adapter import FILES, describe, find_words, load_adapter, put_in, read_configuration, take_adapter
from .hub import find_folder
from .modeling_langbridge import LangBridgeForConditionalGeneration, find_token_ids
from .processing_langbridge import LangBridgeProcessor
from .vocabulary import VOCABULARY_FILE, SharedVocabulary


def transfer(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    text: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    split_words: str = "leave_out",
    words_per_image: int | None = None,
    linear_remainder: bool = False,
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    Puts a LangBridge's vision tower and adapter on another language model, without training anything.

    Nothing of the adapter is lost on the way, not even words that the new tokenizer cuts into pieces: transferred
    back, it gives what it gave before.

    Args:
        model (`LangBridgeForConditionalGeneration`):
            The model, in floating point. Its vision tower becomes part of the result, its adapter is copied.
        processor (`LangBridgeProcessor`):
            Its processor.
        text (`str` or `PreTrainedModel`):
            Hub id, folder or loaded model of the new language model. A loaded one becomes part of the result.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Taken from where `text` came from when left out.
        split_words (`str`, *optional*, defaults to `"leave_out"`):
            What becomes of words that its tokenizer has not as single tokens: `"leave_out"`, the others stand for the
            image alone (distributions are renormalised); `"mean"`, the mean of their pieces' embeddings.
        words_per_image (`int`, *optional*):
            As of [`LangBridgeConfig`]; the model's own when left out.
        linear_remainder (`bool`, *optional*, defaults to `False`):
            As of [`LangBridgeConfig`]: room for what finetuning with the new language model learns beside the words.

    Returns:
        `tuple(LangBridgeForConditionalGeneration, LangBridgeProcessor)`: in eval mode, in the new language model's
        dtype and on its device; and the processor with its tokenizer and chat template.

    Raises:
        `ValueError`: the adapter is not made of words, or is quantised or wrapped; the tokenizer has fewer than a
        quarter of the words whole, where the others are to be left out; or the language model is not supported.

    Source: Liao et al., "LangBridge", arXiv 2503.19404 (an adapter reused with another language model).
    """
    model.config.require_words("`transfer`")
    tensors = take_adapter(model)
    old_ids = model.model.vocabulary_head.token_ids.tolist()
    vocabulary = SharedVocabulary.from_token_ids(processor.tokenizer, old_ids)
    tower = model.model.vision_tower
    new_processor = LangBridgeProcessor.from_vision_text_pretrained(
        tower,
        text,
        image_processor=processor.image_processor,
        tokenizer=tokenizer,
        words_per_image=words_per_image or processor.words_per_image,
    )
    token_ids = find_token_ids(vocabulary, new_processor.tokenizer, split_words)  # (V,) or (V, pieces)
    refuse_few(token_ids, new_processor.tokenizer, split_words)
    new_model = compose_like(
        describe(model.config), token_ids, tower, text, new_processor, split_words, linear_remainder
    )
    put_in(new_model, tensors, token_ids)
    return new_model, new_processor


def refuse_few(token_ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase, split_words: str | None) -> None:
    """Raises `ValueError` where fewer than a quarter of the words `(V,)` or `(V, pieces)` are single tokens, and the
    others are to be left out."""
    whole = int(((token_ids >= 0).view(len(token_ids), -1).sum(1) == 1).sum())
    if split_words == "leave_out" and whole < len(token_ids) / 4:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has {whole} of the adapter's {len(token_ids)} words as single "
            "tokens, too few to do without the others: make these of their pieces (`split_words` mean)."
        )


def from_adapter(
    folder: str | os.PathLike,
    vision: str | PreTrainedModel,
    text: str | PreTrainedModel,
    processor: LangBridgeProcessor | None = None,
    split_words: str | None = None,
    linear_remainder: bool = False,
    revision: str | None = None,
) -> LangBridgeForConditionalGeneration:
    """
    Joins a vision tower, a saved adapter and a language model, which may be another than the adapter was trained with.

    Args:
        folder (`str` or `os.PathLike`):
            What [`save_adapter`] wrote, or its Hub id.
        vision (`str` or `PreTrainedModel`):
            Hub id, folder or loaded model of the vision tower that the adapter was trained with.
        text (`str` or `PreTrainedModel`):
            Hub id, folder or loaded model of any language model.
        processor (`LangBridgeProcessor`, *optional*):
            The processor the model will be used with. Composed from `vision` and `text` when left out.
        split_words (`str`, *optional*):
            What becomes of words that the tokenizer has not as single tokens: `"leave_out"` or `"mean"`, see
            [`LangBridgeConfig`]. They are refused when left out.
        linear_remainder (`bool`, *optional*, defaults to `False`):
            As of [`LangBridgeConfig`].
        revision (`str`, *optional*):
            Branch, tag or commit of the adapter on the Hub.

    Returns:
        `LangBridgeForConditionalGeneration` in eval mode, in the language model's dtype and on its device.

    Raises:
        `OSError`, `ValueError`: as [`load_adapter`], whose model this composes first.

    Source: Liao et al., "LangBridge", arXiv 2503.19404 (an adapter reused with another language model).
    """
    folder = find_folder(folder, FILES, revision)
    configuration, vocabulary = read_configuration(folder)
    processor = processor or LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    # Asked before a large language model is loaded in vain.
    token_ids = find_words(vocabulary, processor.tokenizer, folder / VOCABULARY_FILE, split_words)
    refuse_few(token_ids, processor.tokenizer, split_words)
    model = compose_like(configuration, token_ids, vision, text, processor, split_words, linear_remainder)
    load_adapter(model, processor.tokenizer, folder)
    return model


def compose_like(
    configuration: dict,
    token_ids: torch.Tensor,
    vision: str | PreTrainedModel,
    text: str | PreTrainedModel,
    processor: LangBridgeProcessor,
    split_words: str | None,
    linear_remainder: bool,
) -> LangBridgeForConditionalGeneration:
    """A model with a fresh adapter of the shape and words of another, see [`describe`]."""
    return LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision,
        text,
        token_ids.tolist(),
        processor=processor,
        split_words=split_words,
        linear_remainder=linear_remainder,
        projector_hidden_size=configuration["projector_hidden_size"],
        coefficient_activation=configuration["coefficient_activation"],
        projector_hidden_act=configuration["projector_hidden_act"],
        multimodal_projector_bias=configuration["multimodal_projector_bias"],
        vision_feature_layer=configuration["vision_feature_layer"],
    )

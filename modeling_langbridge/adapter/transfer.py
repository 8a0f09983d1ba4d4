# SPDX-License-Identifier: Apache-2.0
"""A LangBridge on another language model."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor
from .adapter import LangBridgeAdapter


def transfer(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    text: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    split_words: str = "leave_out",
    words_per_image: int | None = None,
    linear_remainder: bool = False,
    pool_patches: int | None = None,
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    Moves a LangBridge's vision tower and adapter to another language model, without training anything.

    Nothing of the adapter is lost on the way, not even words that the new tokenizer splits into pieces: transferred
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
            As of [`~LangBridgeAdapter.join`]; `"combine"` asks the model's own language model which words are alike.
        words_per_image (`int`, *optional*),
        linear_remainder (`bool`, *optional*, defaults to `False`), pool_patches (`int`, *optional*):
            As of [`~LangBridgeAdapter.join`]; `words_per_image` is the model's own when left out.

    Returns:
        `tuple(LangBridgeForConditionalGeneration, LangBridgeProcessor)`: the model in eval mode, in the new language
        model's dtype and on its device; and the processor with its tokenizer and chat template.

    Raises:
        `ValueError`: as [`~LangBridgeAdapter.from_model`] and [`~LangBridgeAdapter.join`].

    Source: Liao et al., "LangBridge", arXiv 2503.19404 (an adapter reused with another language model).
    """
    return LangBridgeAdapter.from_model(model, processor.tokenizer).join(
        model.model.vision_tower,
        text,
        image_processor=processor.image_processor,
        tokenizer=tokenizer,
        split_words=split_words,
        words_per_image=words_per_image or processor.words_per_image,
        linear_remainder=linear_remainder,
        model_class=type(model),
        pool_patches=pool_patches,
        reference_model=model,
        reference_tokenizer=processor.tokenizer,
    )

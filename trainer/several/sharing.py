# SPDX-License-Identifier: Apache-2.0
"""A LangBridge on another language model that has the same parameters for all else."""

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, transfer
from modeling_langbridge.adapter.loading import open_language_model


def share_adapter(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    language_model: str,
    attn_implementation: str | None = None,
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    Puts another language model, frozen, behind a model's own vision tower and adapter. What changes the one's weights
    changes the other's. Each has the words of the adapter under its own token ids; those that its tokenizer splits are
    left out there.

    Args:
        model (`LangBridgeForConditionalGeneration`): The model.
        processor ([`LangBridgeProcessor`]): Its processor.
        language_model (`str`): Folder or Hub id of the other language model. It is loaded in the model's dtype.
        attn_implementation (`str`, *optional*): As of `from_pretrained`.

    Returns:
        `tuple(LangBridgeForConditionalGeneration, LangBridgeProcessor)`: the other model in eval mode, and its
        processor.

    Raises:
        `ValueError`: as [`~modeling_langbridge.transfer`] and [`open_language_model`].
    """
    text = open_language_model(language_model, dtype=model.dtype, attn_implementation=attn_implementation)
    other, other_processor = transfer(model, processor, text)
    for part in (other.model.language_model, other.lm_head):
        part.requires_grad_(False)
    other.model.vision_tower = model.model.vision_tower
    other.model.multi_modal_projector = model.model.multi_modal_projector
    shared = other.model.vocabulary_head, model.model.vocabulary_head
    newline = other.model, model.model  # of LangBridge-NeXT
    for target, source in (shared, newline):
        for name, parameter in source.named_parameters(recurse=False):
            target.register_parameter(name, parameter)
    return other, other_processor

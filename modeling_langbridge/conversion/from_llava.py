# SPDX-License-Identifier: Apache-2.0
"""Lifting: converts a LLaVA into a LangBridge of words that computes the same function.

LLaVA's projector, whose output is as wide as the language model, is kept (so H = d). The vocabulary head is inserted
between its visual tokens x `(d,)` and the language model, and is computed, not trained:

    c = x E⁺    E⁺ (d, V): the pseudo-inverse of the language model's embeddings E (V, d) of the shared words

Where the words span all d dimensions, c E = x, and c is the solution of smallest norm. Elsewhere c E is the projection
of x onto the span of the words. A LLaVA is transformers' own, or a LangBridge whose adapter is a projector alone
(`adapter_type` `"mlp"` or `"linear"`). LLaVA-NeXT's newline is such an x, too.
"""

import math
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedConfig,
)

from ..adapter.kinds import LLAVAS, read_model_config
from ..adapter.loading import build_empty, is_far_larger, open_model, require_weights
from ..adapter.word_space import set_to_inverse
from ..configuration_langbridge import LangBridgeConfig
from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor, measure_vision_tower
from ..utils.files import first_line
from ..utils.weights import read_shapes, require_finite, require_finite_files
from ..vocabulary.shared_vocabulary import SharedVocabulary
from .variants import VARIANTS, check_tiles, shared_fields


class LiftingLoss(NamedTuple):
    """The approximation error of [`lift`].

    Args:
        words (`int`): V, the number of words.
        rank (`int`): How many dimensions the words span.
        width (`int`): d, the width of the language model.
        error (`float`): Relative error `‖x - c E‖ / ‖x‖` over the columns x of the projector's last layer, `[W2 b2]`.
        newline_error (`float`, *optional*): The same of LLaVA-NeXT's newline.
    """

    words: int
    rank: int
    width: int
    error: float
    newline_error: float | None = None

    def __str__(self) -> str:
        sentence = (
            f"The {self.words} words span {self.rank} of the {self.width} dimensions of the language model's "
            f"embeddings; visual tokens made of them have a relative error of {self.error:.2g}"
        )
        if self.newline_error is not None:
            sentence += f", the newline one of {self.newline_error:.2g}"
        if self.rank == self.width:
            return f"{sentence}."
        advice = f"at least {self.width}" if self.words < self.width else "others or more"
        return f"{sentence}: the model only approximates the LLaVA; use {advice} words for a smaller error."


@torch.no_grad()
def lift(
    llava: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration,
    processor: LlavaProcessor | LlavaNextProcessor,
    vocabulary: SharedVocabulary,
    ridge: float = 0.0,
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor, LiftingLoss]:
    """
    Converts a LLaVA into a LangBridge with linear coefficients, and a LLaVA-NeXT into a LangBridge-NeXT. It has the
    same logits where the words span the language model's embedding space.

    Args:
        llava (`LlavaForConditionalGeneration` or `LlavaNextForConditionalGeneration`):
            The LLaVA, in floating point; a [`LangBridgeForConditionalGeneration`] without words is one too. The result
            shares its weights, they are not copied; it stays usable.
        processor (`LlavaProcessor` or `LlavaNextProcessor`):
            Its processor. The number of tokens per image is measured on a stock LLaVA's vision tower, since old
            processors lack it.
        vocabulary (`SharedVocabulary`):
            The V shared words, all of them single tokens of the tokenizer. Fewer words than the width of the language
            model cannot span its embedding space.
        ridge (`float`, *optional*, defaults to 0.0):
            Makes coefficients smaller at the cost of accuracy: E⁺ becomes `(EᵀE + λI)⁻¹ Eᵀ` with λ = `ridge` times
            the mean squared singular value of E.

    Returns:
        `tuple(LangBridgeForConditionalGeneration, LangBridgeProcessor, LiftingLoss)`: the model in eval mode, in the
        LLaVA's dtype and on its device; its processor; and the approximation error, including the rounding of the
        weights to that dtype.

    Raises:
        `ValueError`: the model lacks the architecture of LLaVA 1.5 or LLaVA-NeXT, is quantised or is made of words
        already; the processor has no chat template, or makes tiles of another size than the vision tower's; a word is
        not in the tokenizer or has no embedding; or `ridge` is negative.
    """
    if not isinstance(llava, LlavaForConditionalGeneration | LlavaNextForConditionalGeneration):
        raise ValueError(f"The model is a {type(llava).__name__}: give a whole LlavaForConditionalGeneration.")
    require_llava(llava.config, "The model")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"`ridge` must be finite and 0 or more, but is {ridge}.")
    token_ids = vocabulary.token_ids(processor.tokenizer)
    num_words = llava.get_input_embeddings().num_embeddings
    if max(token_ids) >= num_words:
        raise ValueError(
            f"The tokenizer keeps words under ids up to {max(token_ids)}, but the language model has {num_words} "
            "embeddings: the processor belongs to another model."
        )
    if not isinstance(processor, LangBridgeProcessor):
        processor = convert_processor(processor, llava.config)
    model = wrap_llava(llava, len(token_ids))
    model.config.pool_patches = processor.pool_patches  # of a LangBridge without words
    model.generation_config = processor.complete_generation_config(llava.generation_config)
    head = model.model.vocabulary_head
    head.token_ids.copy_(torch.tensor(token_ids))
    embeddings = model.model.get_word_embeddings().cpu()  # (V, d)
    rank = set_to_inverse(head, embeddings, ridge)
    require_finite(head.named_parameters(), "the vocabulary head")

    last = model.model.multi_modal_projector.linear_2
    columns = last.weight if last.bias is None else torch.cat([last.weight, last.bias[:, None]], dim=1)  # (d, d + 1)

    def lose(tokens: torch.Tensor) -> float:
        """The relative error of visual tokens `(d, tokens)`."""
        tokens = tokens.cpu().double()
        made_of_words = embeddings.double().T @ (head.weight.cpu().double() @ tokens)  # (d, tokens)
        return ((made_of_words - tokens).norm() / tokens.norm()).item()

    newline = lose(model.model.image_newline[:, None]) if VARIANTS[llava.config.model_type].is_next else None
    return model, processor, LiftingLoss(len(token_ids), rank, embeddings.shape[1], lose(columns), newline)


def wrap_llava(
    llava: LlavaForConditionalGeneration | LlavaNextForConditionalGeneration, num_words: int
) -> LangBridgeForConditionalGeneration:
    """A LangBridge around the LLaVA's own modules and weights. Its vocabulary head is not initialised."""
    variant, projector = VARIANTS[llava.config.model_type], llava.model.multi_modal_projector
    is_linear = isinstance(projector.linear_2, nn.Identity)
    config = variant.config(
        vision_config=llava.config.vision_config,
        text_config=llava.config.text_config,
        **shared_fields(llava.config),
        projector_hidden_act="linear" if is_linear else llava.config.projector_hidden_act,
        multimodal_projector_bias=llava.config.multimodal_projector_bias,
        tie_word_embeddings=llava.config.tie_word_embeddings,
        projector_hidden_size=llava.config.text_config.hidden_size,
        bridge_vocab_size=num_words,
        lm_head_bias=llava.lm_head.bias is not None,
        # The settings of the parts, whose configurations are shared with the LLaVA, stay as they are.
        attn_implementation={"": llava.config._attn_implementation},
    )
    with torch.device("meta"):
        model = variant.model(config)
    model.model.vision_tower = llava.model.vision_tower
    model.model.language_model = llava.model.language_model
    model.model.multi_modal_projector.linear_1 = first = projector.linear_1
    model.model.multi_modal_projector.linear_2 = identity_after(first) if is_linear else projector.linear_2
    model.model.vocabulary_head.to(first.weight.dtype).to_empty(device=first.weight.device)
    if variant.is_next:
        model.model.image_newline = llava.model.image_newline  # as wide as the projector's output
    model.lm_head.weight, model.lm_head.bias = llava.lm_head.weight, llava.lm_head.bias
    if model.lm_head.softcapping is not None:
        # A stock LLaVA's output layer leaves out Gemma 2's soft-capping.
        capping = getattr(llava.lm_head, "softcapping", None)
        config.text_config.final_logit_softcapping = model.lm_head.softcapping = capping
    return model.eval()


def identity_after(layer: nn.Linear) -> nn.Linear:
    """A layer `(d, d)` that changes nothing of what a layer puts out, with a bias where that has one."""
    width, place = layer.out_features, {"device": layer.weight.device, "dtype": layer.weight.dtype}
    identity = nn.Linear(width, width, bias=layer.bias is not None, **place)
    nn.init.eye_(identity.weight)
    if identity.bias is not None:
        nn.init.zeros_(identity.bias)
    return identity


def convert_processor(processor: LlavaProcessor | LlavaNextProcessor, config: PreTrainedConfig) -> LangBridgeProcessor:
    """A LangBridge processor from the LLaVA's image processor, tokenizer and chat template."""
    chat_template = processor.chat_template or processor.tokenizer.chat_template
    if chat_template is None:
        raise ValueError(
            "The LLaVA's processor has no chat template: set `processor.chat_template` to the one that the model was "
            "trained with, or put it into a file chat_template.jinja beside the processor's others."
        )
    variant, image_processor = VARIANTS[config.model_type], processor.image_processor
    pixels, features = measure_vision_tower(config.vision_config, image_processor)
    if ("image_sizes" in image_processor.model_input_names) != variant.is_next:
        raise ValueError(
            f"The processor's {type(image_processor).__name__} does not make images for a model of type "
            f"{config.model_type}: give the model's own processor."
        )
    if variant.is_next:
        check_tiles(config, pixels, features)
    (*_, height, width), (_, num_tokens, _) = pixels, features
    patch_size = config.vision_config.patch_size
    return variant.processor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=chat_template,
        image_token=processor.image_token,
        num_additional_image_tokens=num_tokens - (height // patch_size) * (width // patch_size),
    )


def load_llava(
    name: str, dtype: torch.dtype | str = "auto"
) -> tuple[LlavaForConditionalGeneration | LlavaNextForConditionalGeneration, LlavaProcessor | LlavaNextProcessor]:
    """
    Loads a LLaVA or a LLaVA-NeXT, stock or a LangBridge without words, and its processor from a folder or the Hub, and
    checks that the weights are whole and finite.

    Args:
        name (`str`): Folder or Hub id.
        dtype (`torch.dtype` or `str`, *optional*, defaults to `"auto"`): Its dtype; the checkpoint's by default.

    Raises:
        `ValueError`: there is no model, [`lift`] does not support it, or weights or processor are incomplete.
    """
    try:
        content = read_model_config(name)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"No model can be found at {name} ({first_line(error)}): name a LLaVA checkpoint.") from error
    require_llava(config, name)
    if isinstance(config, LangBridgeConfig):
        return open_model(name, device_map=None, dtype=dtype)
    if lacking := [part for part in ("text_config", "vision_config") if not content.get(part)]:
        raise ValueError(f"config.json in {name} has no `{lacking[0]}`: give a whole checkpoint.")
    variant = VARIANTS[config.model_type]
    try:
        processor = variant.llava_processor.from_pretrained(name)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"There is no LLaVA processor in {name} ({first_line(error)}): put the image processor's and the "
            "tokenizer's files beside the model."
        ) from error
    files = require_weights(name)
    shapes = read_shapes(files)
    if is_far_larger(build_empty(name, variant.llava, config, shapes), shapes):
        raise ValueError(f"{name} lacks most weights that its config.json describes: give a whole checkpoint.")
    require_finite_files(files)
    try:
        llava, info = variant.llava.from_pretrained(name, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{name} cannot be loaded ({first_line(error)}): give a whole checkpoint.") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name} lacks {len(missing)} weights, such as `{missing[0]}`: give a whole checkpoint.")
    return llava, processor


def require_llava(config: PreTrainedConfig, name: str):
    """Raises `ValueError` where a model, called `name` in the message, cannot be lifted."""
    if isinstance(config, LangBridgeConfig):
        if config.adapter_type == "langbridge":
            raise ValueError(f"{name} is a LangBridge already: it needs no lifting.")
    elif config.model_type not in LLAVAS:
        raise ValueError(
            f"{name} is a model of type {config.model_type}: only the architectures of LLaVA 1.5 (type llava) and "
            "LLaVA-NeXT (llava_next), with nothing but a projector between vision tower and language model, can be "
            "lifted."
        )
    elif config.architectures not in (None, [expected := VARIANTS[config.model_type].llava.__name__]):
        # Checkpoints of the original LLaVA repository have the same type; transformers would initialise them randomly.
        raise ValueError(
            f"{name} holds a {config.architectures[0]}, not transformers' {expected}: convert it first, or use a "
            "converted one, such as llava-hf/llava-1.5-7b-hf."
        )
    if "quantization_config" in config.to_dict():
        raise ValueError(f"{name} is quantised: give the same LLaVA in floating point.")

# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""LangBridge model configuration: LLaVA's, plus the type and the shape of the adapter."""

from difflib import get_close_matches
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig
from transformers.utils import auto_docstring, logging
from transformers.utils.versions import require_version


# Earlier versions keep CLIP's weights under other names, and would load a random tower with no more than a warning.
OLDEST_TRANSFORMERS = "5.6"
require_version(f"transformers>={OLDEST_TRANSFORMERS}", "A LangBridge needs it: pip install -U transformers")

logger = logging.get_logger(__name__)


@auto_docstring(checkpoint="langbridge")
@strict
class LangBridgeConfig(LlavaConfig):
    r"""
    adapter_type (`str`, *optional*, defaults to `"langbridge"`):
        The adapter between the vision tower and the language model. `"langbridge"`: a projector and a vocabulary head.
        The two others are baselines without words: `"mlp"`, LLaVA's two layers (arXiv 2310.03744), and `"linear"`,
        VLAP's single layer (arXiv 2404.09632). They ignore the fields from `projector_hidden_size` to `split_words`.
    projector_hidden_size (`int`, *optional*, defaults to 5120):
        Width H of the projector (paper section 3: 5120). With an H up to the language model's width, the trained
        adapter can be exported as a stock LLaVA projector.
    bridge_vocab_size (`int`, *optional*, defaults to 19200):
        Number V of shared words, which is the number of coefficients of a visual token.
    coefficient_activation (`str`, *optional*, defaults to `"linear"`):
        `"linear"`: raw signed coefficients, as in the published code. `"softmax"`: a distribution over the words.
        `"gated_softmax"`: a distribution times a gate in (0, 1), so that all coefficients of a patch can be small.
    words_per_image (`int`, *optional*):
        Number of visual tokens per image: the strongest words over all its patches, each once, instead of a visual
        token per patch. It needs coefficients that are distributions.
    pool_patches (`int`, *optional*, defaults to 1):
        Averages squares of so many by so many of the vision tower's patches before the projector, so that an image
        takes fewer visual tokens, as in DeCo (arXiv 2405.20985). With 1 every patch is a visual token.
    linear_remainder (`bool`, *optional*, defaults to `False`):
        Adds to visual tokens made of distributions a linear map from the projector's output to the language model's
        width, which can learn what the words leave out. It starts at zero and belongs to one language model: an
        adapter saved alone does not hold it, and a transfer drops it. With `words_per_image` its input for a word
        is the mean of the patches, weighted by their share of the word.
    pieces_per_word (`int`, *optional*, defaults to 1):
        The largest number of pieces that the language model's tokenizer splits a shared word into; 1 where all words
        are single tokens.
    split_words (`str`, *optional*, defaults to `"leave_out"`):
        How to treat words that are split. `"leave_out"`: their coefficients are 0 and distributions run over the other
        words. `"mean"`: their embedding is the mean of their pieces' embeddings. `"combine"`: it is a combination of
        other words' embeddings, which a transfer finds.
    lm_head_bias (`bool`, *optional*, defaults to `False`):
        Whether the language model's output layer has a bias (Phi's has).

    Example:

    ```python
    >>> from transformers import CLIPVisionConfig, Qwen2Config
    >>> from modeling_langbridge import LangBridgeConfig, LangBridgeForConditionalGeneration

    >>> config = LangBridgeConfig(
    ...     vision_config=CLIPVisionConfig(),
    ...     text_config=Qwen2Config(),
    ...     image_token_index=151646,
    ...     projector_hidden_size=896,
    ... )
    >>> model = LangBridgeForConditionalGeneration(config)
    ```"""

    model_type = "langbridge"

    adapter_type: Literal["langbridge", "mlp", "linear"] = "langbridge"
    projector_hidden_size: int = 5120
    bridge_vocab_size: int = 19200
    coefficient_activation: Literal["linear", "softmax", "gated_softmax"] = "linear"
    words_per_image: int | None = None
    pool_patches: int = 1
    linear_remainder: bool = False
    pieces_per_word: int = 1
    split_words: Literal["leave_out", "mean", "combine"] = "leave_out"
    lm_head_bias: bool = False

    def __post_init__(self, **kwargs: Any):
        # A file may hold fields of a later version, but what is nearly the name of a field is a slip.
        for name in kwargs:
            self.refuse_unknown(name, cutoff=0.85)
        super().__post_init__(**kwargs)

    @classmethod
    def compose(cls, asked: dict[str, Any], **of_parts: Any) -> "LangBridgeConfig":
        """
        The configuration of a new model.

        Args:
            asked (`dict`): fields of its adapter.
            of_parts: fields that its parts decide.

        Raises:
            `ValueError`: there is no such field, the parts decide it, or its value is invalid.
        """
        for name in asked:
            cls.refuse_unknown(name)
            if name in of_parts:
                raise ValueError(f"`{name}` follows from the vocabulary, the processor and the parts: set it there.")
        config = cls(**of_parts, **asked)
        width = config.text_config.hidden_size
        raw = config.adapter_type == "langbridge" and config.coefficient_activation == "linear"
        if raw and config.projector_hidden_size > width:
            logger.warning_once(
                f"`projector_hidden_size` is {config.projector_hidden_size}: only up to the language model's width, "
                f"{width}, can the adapter be exported as a stock LLaVA's."
            )
        return config

    @classmethod
    def refuse_unknown(cls, name: str, cutoff: float | None = None):
        """Raises `ValueError` unless `name` is a field, or with `cutoff` only where it is as near to one's as that."""
        names = {*cls.__dataclass_fields__, *cls.attribute_map}
        near = get_close_matches(name, names, n=1, cutoff=cutoff or 0.6)
        if name not in names and (near or cutoff is None):
            question = f": do you mean `{near[0]}`?" if near else "."
            raise ValueError(f"`{name}` is no field of a LangBridgeConfig{question}")

    def validate_architecture(self):
        """Raises `ValueError` for invalid fields. `PreTrainedConfig` calls it after initialisation."""
        super().validate_architecture()
        layers, depth = self.vision_feature_layer, self.vision_config.to_dict().get("num_hidden_layers")
        outside = [
            layer
            for layer in ([layers] if isinstance(layers, int) else layers)
            if depth and abs(layer) > depth + (layer < 0)
        ]
        if outside:
            raise ValueError(f"`vision_feature_layer` is {layers}, but the vision tower has {depth} layers.")
        if self.pool_patches < 1:
            raise ValueError(f"`pool_patches` must be at least 1, but is {self.pool_patches}.")
        if self.adapter_type != "langbridge":
            return
        if self.projector_hidden_size < 1:
            raise ValueError(f"`projector_hidden_size` must be at least 1, but is {self.projector_hidden_size}.")
        if not 1 <= self.bridge_vocab_size <= self.text_config.vocab_size:
            raise ValueError(
                f"`bridge_vocab_size` is {self.bridge_vocab_size}, but must be between 1 and the language model's "
                f"vocabulary size ({self.text_config.vocab_size}): every shared word is one of its tokens."
            )
        if self.pieces_per_word < 1:
            raise ValueError(f"`pieces_per_word` must be at least 1, but is {self.pieces_per_word}.")
        if self.linear_remainder and self.coefficient_activation == "linear":
            raise ValueError(
                "`linear_remainder` needs coefficients that are distributions: with raw ones "
                "(`coefficient_activation` linear) a linear map adds nothing."
            )
        if self.words_per_image is None:
            return
        if self.coefficient_activation == "linear":
            raise ValueError(
                "`words_per_image` needs coefficients that are distributions over the words: set "
                "`coefficient_activation` to gated_softmax or softmax."
            )
        if not 1 <= self.words_per_image <= self.bridge_vocab_size:
            raise ValueError(
                f"`words_per_image` is {self.words_per_image}, but must be between 1 and `bridge_vocab_size` "
                f"({self.bridge_vocab_size})."
            )

    def require_words(self, what: str):
        """Raises `ValueError` where the adapter is not made of words; `what` names the function that needs it."""
        if self.adapter_type != "langbridge":
            raise ValueError(
                f"{what} needs an adapter made of words, `adapter_type` 'langbridge', but this model's `adapter_type` "
                f"is {self.adapter_type!r}."
            )


__all__ = ["LangBridgeConfig"]

# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""LangBridge model configuration: LLaVA's, plus the type of adapter and the sizes and form of the one of words."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import LlavaConfig
from transformers.utils import auto_docstring


@auto_docstring(checkpoint="langbridge")
@strict
class LangBridgeConfig(LlavaConfig):
    r"""
    adapter_type (`str`, *optional*, defaults to `"langbridge"`):
        What joins the vision tower to the language model. `"langbridge"`: a projector and a vocabulary head. The two
        others are there to compare with, straight to the language model's width and without words: `"mlp"`, LLaVA's
        two layers (arXiv 2310.03744), and `"linear"`, VLAP's single one (arXiv 2404.09632). They read none of
        the fields from `projector_hidden_size` to `split_words`, whatever these say.
    projector_hidden_size (`int`, *optional*, defaults to 5120):
        Width H of the projector (paper section 3: 5120). An H up to the language model's width lets the trained
        adapter fold into a stock LLaVA projector.
    bridge_vocab_size (`int`, *optional*, defaults to 19200):
        Number V of shared words that the coefficients run over.
    coefficient_activation (`str`, *optional*, defaults to `"linear"`):
        `"linear"`: raw signed coefficients, as in the published code. `"softmax"`: a distribution over the words.
        `"gated_softmax"`: a distribution times a gate in (0, 1), so that a patch with nothing to say can be silent.
    words_per_image (`int`, *optional*):
        Hands the language model that many words of an image, the strongest of all its patches together and each once,
        in place of a visual token for every patch. Takes coefficients that are distributions.
    linear_remainder (`bool`, *optional*, defaults to `False`):
        Adds to what an adapter of distributions makes of words a linear map of the projector's output, straight to
        the language model's width, for what words do not say. It begins as nothing, and belongs to one language model:
        neither an adapter saved alone nor a transfer has it. With `words_per_image` it reads, for each word, the
        patches that say it.
    pieces_per_word (`int`, *optional*, defaults to 1):
        The most tokens that the language model's tokenizer cuts a shared word into; 1 where it has them all whole.
    split_words (`str`, *optional*, defaults to `"leave_out"`):
        What becomes of words that are cut: `"leave_out"`, their coefficients are nothing and distributions run over
        the others; `"mean"`, the mean of their pieces' embeddings stands for them.
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
    linear_remainder: bool = False
    pieces_per_word: int = 1
    split_words: Literal["leave_out", "mean"] = "leave_out"
    lm_head_bias: bool = False

    def validate_architecture(self):
        """Refuses sizes that cannot be built, naming the field. Called by `PreTrainedConfig` after initialisation."""
        super().validate_architecture()
        if self.adapter_type != "langbridge":
            return
        if self.projector_hidden_size < 1:
            raise ValueError(f"`projector_hidden_size` must be at least 1, but is {self.projector_hidden_size}.")
        if not 1 <= self.bridge_vocab_size <= self.text_config.vocab_size:
            raise ValueError(
                f"`bridge_vocab_size` is {self.bridge_vocab_size}, but must lie between 1 and the language model's "
                f"vocabulary size ({self.text_config.vocab_size}): every shared word is one of its tokens."
            )
        if self.pieces_per_word < 1:
            raise ValueError(f"`pieces_per_word` must be at least 1, but is {self.pieces_per_word}.")
        if self.linear_remainder and self.coefficient_activation == "linear":
            raise ValueError(
                "`linear_remainder` stands beside coefficients that are distributions: raw ones "
                "(`coefficient_activation` linear) leave nothing out that it could add."
            )
        if self.words_per_image is None:
            return
        if self.coefficient_activation == "linear":
            raise ValueError(
                "`words_per_image` takes coefficients that are distributions over the words: set "
                "`coefficient_activation` to gated_softmax or softmax."
            )
        if not 1 <= self.words_per_image <= self.bridge_vocab_size:
            raise ValueError(
                f"`words_per_image` is {self.words_per_image}, but must lie between 1 and `bridge_vocab_size` "
                f"({self.bridge_vocab_size})."
            )

    def require_words(self, what: str):
        """Raises `ValueError` where the adapter is not made of words, which `what` is about."""
        if self.adapter_type != "langbridge":
            raise ValueError(
                f"{what} takes an adapter made of words, `adapter_type` 'langbridge', but this model's `adapter_type` "
                f"is {self.adapter_type!r}."
            )


__all__ = ["LangBridgeConfig"]

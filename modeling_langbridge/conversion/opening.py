# SPDX-License-Identifier: Apache-2.0
"""Opens what can be read in words: a LangBridge, or a LLaVA, which is lifted in memory."""

from os import PathLike

from transformers import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration, PreTrainedTokenizerBase

from ..adapter.kinds import LLAVAS, read_model_config
from ..adapter.loading import open_model
from ..configuration_langbridge import LangBridgeConfig
from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor
from ..vocabulary.shared_vocabulary import SharedVocabulary
from .from_llava import LiftingLoss, convert_processor, lift, load_llava


MOST_WORDS = 19200  # the paper's number


def open_any_adapter(
    name: str,
) -> tuple[LlavaForConditionalGeneration | LlavaNextForConditionalGeneration, LangBridgeProcessor]:
    """
    Opens a LangBridge of any `adapter_type`, or a stock LLaVA or LLaVA-NeXT.

    Args:
        name (`str`): Hub id or folder.

    Returns:
        `tuple(LlavaForConditionalGeneration, LangBridgeProcessor)`, or LLaVA-NeXT's: the model in eval mode, of which
        a LangBridge is a subclass, and its processor, which for a stock LLaVA is converted.

    Raises:
        `ValueError`: as [`~modeling_langbridge.adapter.loading.open_model`] and [`load_llava`].
    """
    try:
        is_llava = read_model_config(name).get("model_type") in LLAVAS
    except OSError:  # open_model says what is wrong
        is_llava = False
    if not is_llava:
        return open_model(name)
    llava, processor = load_llava(name)
    return llava.eval(), convert_processor(processor, llava.config)


def open_in_words(
    name: str, vocabulary: str | PathLike | None = None, size: int | None = None
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor, LiftingLoss | None]:
    """
    Opens a model whose adapter is made of words. A LLaVA, stock or a LangBridge without words (`mlp`, `linear`), is
    lifted in memory: its visual tokens stay the same, and their coefficients are one solution of many.

    Args:
        name (`str`): Hub id or folder.
        vocabulary (`str` or `PathLike`, *optional*), size (`int`, *optional*):
            The words of a lifted model, see [`choose_words`].

    Returns:
        `tuple(LangBridgeForConditionalGeneration, LangBridgeProcessor, LiftingLoss)`: the model in eval mode, its
        processor, and what lifting lost, `None` for a model that was made of words.

    Raises:
        `ValueError`: as [`open_any_adapter`], [`choose_words`] and [`lift`].
    """
    model, processor = open_any_adapter(name)
    if isinstance(model.config, LangBridgeConfig) and model.config.adapter_type == "langbridge":
        return model, processor, None
    return lift(model, processor, choose_words(processor.tokenizer, vocabulary, size))


def choose_words(
    tokenizer: PreTrainedTokenizerBase, vocabulary: str | PathLike | None = None, size: int | None = None
) -> SharedVocabulary:
    """
    The words to lift a LLaVA into: the first of those that its tokenizer has as single tokens.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The LLaVA's.
        vocabulary (`str` or `PathLike`, *optional*):
            File, folder or Hub id of a shared vocabulary. The one that ships with the package when left out.
        size (`int`, *optional*): How many. 19,200 when left out, or as many as there are.

    Raises:
        `OSError`, `ValueError`: as [`SharedVocabulary.load`], [`~SharedVocabulary.restricted_to`] and
        [`~SharedVocabulary.first`].
    """
    words = SharedVocabulary.qwen2_llama3(None) if vocabulary is None else SharedVocabulary.load(vocabulary)
    known = words.restricted_to(tokenizer)
    return known.first(min(len(known), MOST_WORDS) if size is None else size)

# SPDX-License-Identifier: Apache-2.0
"""A language model in name only, for an adapter that is trained or read without one."""

from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..vocabulary.shared_vocabulary import SharedVocabulary


UNKNOWN = "<unk>"


def placeholder_language_model(vocabulary: SharedVocabulary) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """
    A language model of eight numbers a token, whose tokens are the words of a vocabulary, and its tokenizer.

    Args:
        vocabulary ([`SharedVocabulary`]): The words; each is the token of its place in the list.
    """
    # Surfaces are decoded behind another text, which the tokenizer must be able to encode.
    places = {surface: place for place, surface in enumerate([*vocabulary.surfaces, UNKNOWN])}
    words = Tokenizer(models.WordLevel(places, unk_token=UNKNOWN))
    words.decoder = decoders.Fuse()
    config = LlamaConfig(
        vocab_size=len(vocabulary) + 8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        bos_token_id=None,
        eos_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config), PreTrainedTokenizerFast(tokenizer_object=words, unk_token=UNKNOWN)

# SPDX-License-Identifier: Apache-2.0
"""Surfaces: the text of a token, with its leading space where it has one, in any tokenizer."""

import re

from transformers import PreTrainedTokenizerBase


def index_surfaces(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """
    The token id of every surface that the tokenizer has as a single ordinary token.

    Spaces and bytes are decoded by the tokenizer itself.

    Raises:
        `ValueError`: this is no tokenizer.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"the tokenizer is {tokenizer!r:.60}: load it with `AutoTokenizer.from_pretrained`")
    extra = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    byte = re.compile("<0x[0-9A-F]{2}>")
    ids = sorted(i for token, i in tokenizer.get_vocab().items() if i not in extra and not byte.fullmatch(token))
    prefix = tokenizer.decode(tokenizer.encode("a", add_special_tokens=False), clean_up_tokenization_spaces=False)

    def produces(text: str, token_id: int) -> bool:
        return tokenizer.encode(text, add_special_tokens=False)[-1:] == [token_id]

    index: dict[str, int] = {}
    for token_id, surface in zip(ids, decode_words(tokenizer, [[i] for i in ids]), strict=True):
        if not surface or "\N{REPLACEMENT CHARACTER}" in surface:
            continue
        # Of two tokens with one surface, the one that the tokenizer itself uses carries the trained embedding.
        if surface not in index or produces(surface, token_id) or produces(prefix + surface, token_id):
            index[surface] = token_id
    return index


def decode_words(tokenizer: PreTrainedTokenizerBase, words: list[list[int]]) -> list[str]:
    """
    The surfaces of words that are given by their token ids; empty where the tokens are not a word.

    They are decoded after a fixed prefix, which is then removed: it keeps the leading space that SentencePiece drops
    at the start of a text.
    """
    if not words:
        return []
    anchor = tokenizer.encode("a", add_special_tokens=False)
    prefix = tokenizer.decode(anchor, clean_up_tokenization_spaces=False)
    texts = tokenizer.batch_decode([[*anchor, *word] for word in words], clean_up_tokenization_spaces=False)
    return [text[len(prefix) :] if text.startswith(prefix) else "" for text in texts]


def cut_surface(tokenizer: PreTrainedTokenizerBase, surface: str, before: str) -> list[int] | None:
    """The ids of a surface's pieces, tokenized after some text; `None` where they do not spell the surface."""
    num_before = len(tokenizer.encode(before, add_special_tokens=False))
    pieces = tokenizer.encode(before + surface, add_special_tokens=False)[num_before:]
    return pieces if len(pieces) > 1 and decode_words(tokenizer, [pieces]) == [surface] else None

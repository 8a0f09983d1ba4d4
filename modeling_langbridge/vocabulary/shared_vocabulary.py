# SPDX-License-Identifier: Apache-2.0
"""The shared vocabulary: the words of an adapter, and their token ids in the tokenizer of any language model."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..utils.files import atomic_file, find_folder, push_saved, read_json
from .surfaces import cut_surface, decode_words, index_surfaces


VOCABULARY_FILE = "vocabulary.json"
SHIPPED = Path(__file__).with_name("qwen2_llama3.json")


@dataclass(frozen=True)
class SharedVocabulary:
    """
    An ordered list of token *surfaces*: the text of each token, with its leading space where it has one.

    Tokenizers spell the same surface differently (" dog" is `Ġdog` in byte-level BPE and `▁dog` in SentencePiece) and
    give it different ids, so the surface is what they share. The index of a surface in this list is the index of its
    coefficient in the adapter, which therefore works with every language model. Two vocabularies are equal when they
    hold the same surfaces in the same order, and `len(vocabulary)` is V.

    Source: Liao et al., "LangBridge", arXiv 2503.19404 (the 19,200 most used tokens that LLaMA 3 and Qwen share).

    Args:
        surfaces (`Iterable[str]`):
            The surfaces in rank order, most used first. Stored as a tuple.

    Raises:
        `ValueError`: the list is empty, an entry is not a non-empty string, or a surface occurs twice.

    Example:

    ```python
    >>> vocabulary = SharedVocabulary.qwen2_llama3(size=19200)
    >>> vocabulary.surfaces[:4]
    (' a', '.', 'A', ' in')
    >>> ids = vocabulary.token_ids(AutoTokenizer.from_pretrained("Qwen/Qwen2-0.5B-Instruct"))
    ```
    """

    surfaces: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.surfaces, str):
            raise ValueError("`surfaces` is a single string: pass a list of token surfaces")
        if not isinstance(self.surfaces, Iterable):
            raise ValueError(f"`surfaces` is {self.surfaces!r}: pass a list of token surfaces")
        surfaces = tuple(self.surfaces)
        if not surfaces:
            raise ValueError("a shared vocabulary needs at least one surface, but the list is empty")
        for rank, surface in enumerate(surfaces):
            if not isinstance(surface, str) or not surface:
                raise ValueError(f"every surface must be a non-empty string, but entry {rank} is {surface!r}")
        if twice := [surface for surface, times in Counter(surfaces).items() if times > 1]:
            raise ValueError(f"{len(twice)} surfaces occur more than once: keep one each of {_some(twice)}")
        object.__setattr__(self, "surfaces", surfaces)

    def __len__(self) -> int:
        return len(self.surfaces)

    def __repr__(self) -> str:
        return f"SharedVocabulary({len(self)} surfaces: {_some(self.surfaces)})"

    @classmethod
    def build(
        cls, tokenizers: Iterable[PreTrainedTokenizerBase], texts: Iterable[str], size: int | None = None
    ) -> "SharedVocabulary":
        """
        Builds a vocabulary of the surfaces that every tokenizer has as a single ordinary token, ranked by their use.

        The uses of a surface are summed over the tokenizers, each of which splits the texts in its own way. Ties, and
        surfaces that are never used, are ranked by the smaller sum of ids, then by the surface, so that the order of
        the tokenizers does not matter. Special tokens, added tokens, byte-fallback pieces and tokens that hold only
        part of a character are left out.

        Args:
            tokenizers (`Iterable[PreTrainedTokenizerBase]`):
                The tokenizers that share the vocabulary.
            texts (`Iterable[str]`):
                The corpus, such as captions. It is read once, so it can be a generator.
            size (`int`, *optional*):
                Number of surfaces to keep. All that are shared when left out.

        Raises:
            `ValueError`: there are no tokenizers, `texts` is one string, or fewer than `size` surfaces are shared.
        """
        tokenizers = list(tokenizers)
        if not tokenizers:
            raise ValueError("`tokenizers` is empty: name at least one tokenizer")
        if isinstance(texts, str):
            raise ValueError("`texts` is a single string: pass a list of texts, such as [text]")
        indices = [index_surfaces(tokenizer) for tokenizer in tokenizers]
        shared = set.intersection(*(set(index) for index in indices))
        size = len(shared) if size is None else size
        if not 1 <= size <= len(shared):
            raise ValueError(
                f"the {len(tokenizers)} tokenizers share {len(shared)} surfaces as single ordinary tokens: "
                f"a vocabulary of {size} cannot be made of them"
            )

        used = [Counter() for _ in tokenizers]
        texts = iter(logging.tqdm(texts, desc="counting tokens", unit=" texts", delay=2))
        while batch := list(islice(texts, 1000)):
            for tokenizer, counter in zip(tokenizers, used, strict=True):
                encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
                counter.update(chain.from_iterable(encoded["input_ids"]))

        def rank(surface: str) -> tuple[int, int, str]:
            ids = [index[surface] for index in indices]
            return -sum(counter[i] for counter, i in zip(used, ids, strict=True)), sum(ids), surface

        return cls(sorted(shared, key=rank)[:size])

    @classmethod
    def from_token_ids(
        cls, tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int] | Sequence[Sequence[int]]
    ) -> "SharedVocabulary":
        """
        The words that have these token ids, in their order: the inverse of [`~SharedVocabulary.token_ids`] and of
        [`~SharedVocabulary.piece_ids`].

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                The tokenizer of the language model that the ids belong to.
            token_ids (`Sequence[int]` or `Sequence[Sequence[int]]`):
                `(V,)` ids, or the ids of each word's pieces, in rank order, such as
                `model.model.get_word_ids()`.

        Raises:
            `ValueError`: a word occurs twice, or [`~SharedVocabulary.token_ids`] would not return this id for it.
        """
        surfaces = {token_id: surface for surface, token_id in index_surfaces(tokenizer).items()}
        words = [[word] if isinstance(word, int) else word for word in token_ids]
        if wrong := [word[0] for word in words if len(word) == 1 and word[0] not in surfaces]:
            raise ValueError(
                f"{len(wrong)} of the {len(token_ids)} token ids are not ordinary words of the tokenizer "
                f"{tokenizer.name_or_path!r}, among them {_some(wrong)}: special tokens, parts of a character and "
                "second spellings of a word cannot be in a shared vocabulary"
            )
        joined = iter(decode_words(tokenizer, [word for word in words if len(word) > 1]))
        return cls(surfaces[word[0]] if len(word) == 1 else next(joined) for word in words)

    @classmethod
    def qwen2_llama3(cls, size: int | None = 19200) -> "SharedVocabulary":
        """
        The ranked vocabulary of Qwen2 and Llama 3 that ships with the package (see docs/vocabulary.md).

        Args:
            size (`int`, *optional*, defaults to 19200):
                Number of surfaces, most used first; the default is the paper's. All 108,580 when `None`.
        """
        vocabulary = cls.from_file(SHIPPED)
        return vocabulary if size is None else vocabulary.first(size)

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "SharedVocabulary":
        """
        Reads a vocabulary that [`~SharedVocabulary.save`] wrote: a JSON list of surfaces in rank order.

        Raises:
            `FileNotFoundError`: there is no such file.
            `ValueError`: the file is not JSON, or not a list of distinct, non-empty strings.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no vocabulary file {path}: scripts/create_vocab_subset.py writes one")
        content = read_json(path)
        if not isinstance(content, list):
            # The original LangBridge writes a dict from token to id, which belongs to one tokenizer.
            raise ValueError(
                f"{path} must hold a JSON list of token surfaces, not a {type(content).__name__}: "
                "create it again with scripts/create_vocab_subset.py"
            )
        try:
            return cls(content)
        except ValueError as error:
            raise ValueError(f"{path} does not hold a shared vocabulary: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike | None = None, size: int | None = None) -> "SharedVocabulary":
        """
        Reads the first `size` words of a file, a folder or a repository on the Hub (all by default), or without a
        `path` of the vocabulary that ships with the package (19200 by default).

        Raises:
            `OSError`, `ValueError`: as [`~SharedVocabulary.from_file`] and [`~SharedVocabulary.first`].
        """
        if path is None:
            return cls.qwen2_llama3(19200 if size is None else size)
        is_file = Path(path).is_file() or Path(path).suffix == ".json"
        vocabulary = cls.from_file(path) if is_file else cls.from_pretrained(path)
        return vocabulary if size is None else vocabulary.first(size)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, revision: str | None = None) -> "SharedVocabulary":
        """
        Reads the vocabulary of a folder or of a repository on the Hub, such as an adapter's.

        Args:
            name (`str` or `os.PathLike`):
                The folder that holds `vocabulary.json`, or the Hub id.
            revision (`str`, *optional*):
                Branch, tag or commit on the Hub.

        Raises:
            `OSError`: there is no such folder or repository, or no vocabulary in it.
            `ValueError`: as [`~SharedVocabulary.from_file`].
        """
        return cls.from_file(find_folder(name, [VOCABULARY_FILE], revision) / VOCABULARY_FILE)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes `vocabulary.json` into a folder."""
        self.save(Path(folder) / VOCABULARY_FILE)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:
        """Uploads `vocabulary.json` to a repository on the Hub; `kwargs` as of [`LangBridgeAdapter.push_to_hub`]."""
        return push_saved(self.save_pretrained, repo_id, **kwargs)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the surfaces to the file `path` as a JSON list, one per line. The write is atomic."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.surfaces, ensure_ascii=False, indent=0)
        with atomic_file(path) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8", newline="\n")

    def first(self, size: int) -> "SharedVocabulary":
        """The `size` highest-ranked surfaces. Raises `ValueError` unless 1 <= size <= len(vocabulary)."""
        if type(size) is not int or not 1 <= size <= len(self):
            raise ValueError(f"the vocabulary has {len(self)} surfaces: ask for 1 to {len(self)}, not {size!r}")
        return SharedVocabulary(self.surfaces[:size])

    def token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """
        The token ids `(V,)` of the surfaces in this tokenizer: `ids[i]` is the id of `surfaces[i]`.

        Raises:
            `ValueError`: the tokenizer lacks some of the surfaces as single ordinary tokens.
        """
        index = index_surfaces(tokenizer)
        if missing := [surface for surface in self.surfaces if surface not in index]:
            raise ValueError(
                f"{len(missing)} of the {len(self)} surfaces are not single tokens of the tokenizer "
                f"{tokenizer.name_or_path!r}, among them {_some(missing)}: "
                "leave them out of a new vocabulary by `restricted_to(tokenizer)`, or choose what to do with them by "
                "`split_words`: leave_out, mean, or combine with a reference language model"
            )
        return [index[surface] for surface in self.surfaces]

    def piece_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """
        The token ids of every surface, in rank order: one id where the tokenizer has the surface as a single ordinary
        token, otherwise the ids of the pieces that it splits it into.

        Raises:
            `ValueError`: the tokenizer cannot spell some of the surfaces.
        """
        index = index_surfaces(tokenizer)
        # A line break before it keeps SentencePiece from adding a space, but some tokenizers merge line breaks.
        cuts = {
            surface: cut_surface(tokenizer, surface, before="\n") or cut_surface(tokenizer, surface, before="")
            for surface in self.surfaces
            if surface not in index
        }
        if wrong := [surface for surface, pieces in cuts.items() if pieces is None]:
            raise ValueError(
                f"{len(wrong)} of the {len(self)} surfaces cannot be spelled by the tokenizer "
                f"{tokenizer.name_or_path!r}, among them {_some(wrong)}: leave them out of the vocabulary"
            )
        return [cuts.get(surface) or [index[surface]] for surface in self.surfaces]

    def locate(
        self, tokenizer: PreTrainedTokenizerBase, split_words: str | None = None
    ) -> list[int] | list[list[int]]:
        """
        [`~SharedVocabulary.piece_ids`] where `split_words` is given, otherwise [`~SharedVocabulary.token_ids`], which
        raises an error for surfaces that the tokenizer splits.
        """
        return self.token_ids(tokenizer) if split_words is None else self.piece_ids(tokenizer)

    def restricted_to(self, tokenizer: PreTrainedTokenizerBase) -> "SharedVocabulary":
        """
        Only the surfaces that this tokenizer has as single ordinary tokens, in the same order.

        An adapter's coefficients are indexed by its vocabulary: restrict it before composing a model, not after.

        Raises:
            `ValueError`: the tokenizer has none of them.
        """
        index = index_surfaces(tokenizer)
        if not any(surface in index for surface in self.surfaces):
            raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has none of the {len(self)} surfaces")
        return SharedVocabulary(surface for surface in self.surfaces if surface in index)


def _some(items: Sequence[str | int]) -> str:
    """The first few surfaces or ids, for a message."""
    return ", ".join(map(repr, items[:5])) + (", ..." if len(items) > 5 else "")

# SPDX-License-Identifier: Apache-2.0
"""How near split words come to a language model's own: words that it has are held out, and made of others.

    PYTHONPATH=.:scripts python -m experiments.split_words LANGUAGE_MODEL OTHER_LANGUAGE_MODEL

prints docs/transfer.md's table. A word that is held out is split where the tokenizer's merges (byte-pair encoding)
would split it without those that make the whole word.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modeling_langbridge import SharedVocabulary
from modeling_langbridge.adapter import word_combinations
from modeling_langbridge.adapter.loading import open_language_model
from modeling_langbridge.vocabulary.surfaces import index_surfaces


HELD_OUT = 1000
NUMBERS_OF_WORDS = (1, 4, 8, 16)


class LanguageModel(NamedTuple):
    tokenizer: PreTrainedTokenizerBase
    index: dict[str, int]  # the token id of each surface
    embeddings: torch.Tensor  # (tokens, d)


def read(name: str) -> LanguageModel:
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    weight = open_language_model(name, dtype="auto").get_input_embeddings().weight.detach().float()
    return LanguageModel(tokenizer, index_surfaces(tokenizer), weight)


def split(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[list[int]]:
    """The ids of the pieces of each token, were it not one."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ranks = {tuple(merge): rank for rank, merge in enumerate(model["merges"])}
    cuts = []
    for token in tokenizer.convert_ids_to_tokens(token_ids):
        pieces = list(token)
        while pairs := [
            (ranks[pair], place)
            for place, pair in enumerate(zip(pieces, pieces[1:], strict=False))
            if pair in ranks and "".join(pair) != token
        ]:
            _, place = min(pairs)
            pieces[place : place + 2] = ["".join(pieces[place : place + 2])]
        cuts.append([model["vocab"][piece] for piece in pieces])
    return cuts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language_models", nargs=2, metavar="LANGUAGE_MODEL", help="folder or Hub id")
    one, other = map(read, parser.parse_args().language_models)
    shared = [surface for surface in one.index if surface in other.index]
    shipped = set(SharedVocabulary.qwen2_llama3().surfaces)
    order = torch.randperm(len(shared), generator=torch.Generator().manual_seed(0)).tolist()
    held_out = [shared[place] for place in order if shared[place] in shipped and len(shared[place]) > 1][:HELD_OUT]
    among_all = [surface for surface in shared if surface not in set(held_out)]
    among_shipped = [surface for surface in among_all if surface in shipped]
    for old, new in ((one, other), (other, one)):
        print(f"\nfrom {old.tokenizer.name_or_path} to {new.tokenizer.name_or_path}")
        target = new.embeddings[[new.index[surface] for surface in held_out]]  # (words, d)
        mean = new.embeddings[[new.index[surface] for surface in among_shipped]].mean(0)

        def tell(what: str, found: torch.Tensor, target=target, mean=mean) -> None:
            pairs = (found, target), (found - mean, target - mean)
            cosines = [torch.cosine_similarity(*pair).mean().item() for pair in pairs]
            print("{:50} {:.3f} ({:.3f})".format(what, *cosines), flush=True)

        pieces = split(new.tokenizer, [new.index[surface] for surface in held_out])
        tell("mean of the pieces", torch.stack([new.embeddings[ids].mean(0) for ids in pieces]))
        for words in NUMBERS_OF_WORDS:
            word_combinations.WORDS_PER_COMBINATION = words
            for atoms, what in ((among_all, "shared"), (among_shipped, "shipped")):
                old_atoms, new_atoms = (
                    its.embeddings[[its.index[surface] for surface in atoms]] for its in (old, new)
                )  # (atoms, d)
                start = time.perf_counter()
                chosen, weights = word_combinations.match(
                    old.embeddings[[old.index[surface] for surface in held_out]], old_atoms
                )
                seconds = time.perf_counter() - start
                found = (weights[:, None] @ new_atoms[chosen]).squeeze(1)
                tell(f"{words} of {len(atoms)} {what} words, {seconds:.0f} s", found)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The forms in which a sentence is handed to a language model that nothing was trained for."""

from collections.abc import Sequence
from functools import partial

import torch

from experiments.ears.adapter import Parts
from experiments.ears.heard import read_heard
from experiments.ears.listening import Heard, listen
from experiments.ears.sentences import read_utterances
from experiments.ears.words import SharedWords, spoken_words
from experiments.ears.world import EarsWorld
from experiments.flickr8k.few_shot import Tokens
from experiments.small_language_model import word_prompt


FORMS = {
    "nothing": "nothing",
    "heard": "**the heard words**",
    "mixtures": "of each heard word the mixture of words",
    "steps": "a token per time step, as of patches",
    "shared": "the shared words that were said, as text",
    "text": "all words that were said, as text",
}


@torch.no_grad()
def embed_words(parts: Parts, heard: Heard) -> torch.Tensor:
    """The language model's own embeddings of the words, `(words, d)`."""
    return parts[0].model.get_word_embeddings()[[word.word for word in heard.words]]


@torch.no_grad()
def mix_words(parts: Parts, heard: Heard) -> torch.Tensor:
    """Of each heard word the mean embedding under the coefficients of its time steps, `(words, d)`."""
    model = parts[0].model
    coefficients = model.vocabulary_head(heard.hidden_states)  # (steps, V)
    rows = [coefficients[word.start : word.stop].sum(0) for word in heard.words]  # words x (V,)
    mixed = torch.stack(rows) if rows else coefficients[:0]  # (words, V)
    return mixed / mixed.sum(1, keepdim=True) @ model.get_word_embeddings()


@torch.no_grad()
def mix_steps(parts: Parts, heard: Heard) -> torch.Tensor:
    """The tokens that LangBridge makes of all time steps, `(steps, d)`."""
    return parts[0].model.mix(heard.hidden_states)


def hand_over(world: EarsWorld, parts: Parts, form: str, split: str) -> Sequence[Tokens] | None:
    """What stands for each of the first utterances of a split, as many as a language model reads at most."""
    count = world.sizes.read_sentences
    sentences = [utterance.sentence for utterance in read_utterances(world, split)[:count]]
    if form == "nothing":
        return None
    if form == "text":
        return [word_prompt(spoken_words(sentence)) for sentence in sentences]
    if form == "shared":
        words = SharedWords(world.vocabulary)
        return [word_prompt([words.words[place] for place in words.find(sentence)]) for sentence in sentences]
    make = partial({"heard": embed_words, "mixtures": mix_words, "steps": mix_steps}[form], parts)
    return [make(heard) for heard in listen(parts[0], world.sizes, read_heard(world, split)[:count])]

# SPDX-License-Identifier: Apache-2.0
"""What a careless call is answered with: one sentence that names the argument, and what to give instead."""

from functools import partial
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM

from modeling_langbridge import (
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
    configuration_langbridge,
)


COMPOSING = {
    "a field with a slip": (
        {"projector_hiden_size": 8},
        "`projector_hiden_size` is no field of a LangBridgeConfig: do you mean `projector_hidden_size`",
    ),
    "a field of nothing": ({"frobnication": 8}, r"`frobnication` is no field of a LangBridgeConfig\.$"),
    "words_per_image beside the processor": ({"words_per_image": 5}, "`words_per_image` follows from the vocabulary"),
    "bridge_vocab_size beside the words": ({"bridge_vocab_size": 5}, "`bridge_vocab_size` follows from the vocab"),
    "image_token_index beside the processor": ({"image_token_index": 5}, "`image_token_index` follows from"),
    "the name of a vocabulary's file": (
        {"vocabulary": "words.json"},
        r"`vocabulary` is 'words.json': give SharedVocabulary.load\(file\)",
    ),
    "the path of a vocabulary's file": (
        {"vocabulary": Path("words.json")},
        r"`vocabulary` is PosixPath\('words.json'\)",
    ),
    "words": ({"vocabulary": ["dog", "cat"]}, r"`vocabulary` is \['dog', 'cat'\]: give .* or a list of token ids"),
    "the published code's dict": ({"vocabulary": {"dog": 3}}, r"`vocabulary` is \{'dog': 3\}: give SharedVocabulary"),
    "fractions": ({"vocabulary": [1.5]}, r"`vocabulary` is \[1.5\]"),
    "truth values": ({"vocabulary": [True]}, r"`vocabulary` is \[True\]"),
    "words and pieces mixed": ({"vocabulary": [1, [2, 3]]}, r"`vocabulary` is \[1, \[2, 3\]\]"),
    "pieces and words mixed": ({"vocabulary": [[2, 3], 1]}, r"`vocabulary` is \[\[2, 3\], 1\]"),
    "a word of no pieces": ({"vocabulary": [[]]}, r"`vocabulary` is \[\[\]\]"),
    "no vocabulary": ({"vocabulary": None}, "`vocabulary` is missing"),
    "no words": ({"vocabulary": []}, "`bridge_vocab_size` is 0, but must be between 1"),
    "tokens of another tokenizer": ({"vocabulary": [600]}, "1 token ids outside the language model's 512 embeddings"),
    "negative tokens": ({"vocabulary": [-1]}, "1 token ids outside the language model's 512 embeddings"),
    "no width": ({"projector_hidden_size": 0}, "`projector_hidden_size` must be at least 1, but is 0"),
    "a width in text": ({"projector_hidden_size": "8"}, "'projector_hidden_size' expected int, got str"),
    "an unknown activation": (
        {"coefficient_activation": "relu"},
        r"'coefficient_activation' expected one of \('linear', 'softmax', 'gated_softmax'\), got relu",
    ),
    "an unknown adapter": ({"adapter_type": "mpl"}, r"'adapter_type' expected one of \('langbridge', 'mlp', 'linear'"),
    "an unknown treatment of split words": (
        {"split_words": "drop"},
        r"'split_words' expected one of \('leave_out', 'me",
    ),
    "a remainder of raw coefficients": ({"linear_remainder": True}, "`linear_remainder` needs coefficients that are"),
    "a layer that the tower lacks": ({"vision_feature_layer": 4}, "`vision_feature_layer` is 4, .* has 3 layers"),
    "a layer before the first": ({"vision_feature_layer": -5}, "`vision_feature_layer` is -5, .* has 3 layers"),
    "one layer of several": ({"vision_feature_layer": [0, 9]}, r"`vision_feature_layer` is \[0, 9\], .* has 3 layers"),
}

CONFIGURATION = {
    "a field with a slip": ({"projector_hiden_size": 8}, "do you mean `projector_hidden_size`"),
    "a word of a field": ({"words_per_imag": 8}, "do you mean `words_per_image`"),
    "no words": ({"bridge_vocab_size": 0}, "`bridge_vocab_size` is 0, but must be between 1"),
    "no pieces": ({"pieces_per_word": 0}, "`pieces_per_word` must be at least 1"),
    "no words of an image": (
        {"words_per_image": 0, "coefficient_activation": "softmax"},
        "must be between 1 and `bridge",
    ),
}

VOCABULARY = {
    "one word": (partial(SharedVocabulary, "dog"), "`surfaces` is a single string: pass a list"),
    "nothing": (partial(SharedVocabulary, None), "`surfaces` is None: pass a list"),
    "no words": (partial(SharedVocabulary, []), "the list is empty"),
    "ids": (partial(SharedVocabulary, [1]), "entry 0 is 1"),
    "a word twice": (partial(SharedVocabulary, ["a", "a"]), "keep one each of 'a'"),
    "an empty word": (partial(SharedVocabulary, [""]), "entry 0 is ''"),
    "a file that is not there": (
        partial(SharedVocabulary.load, "absent.json"),
        "there is no vocabulary file absent.json",
    ),
    "no size": (partial(SharedVocabulary.load, None, 0), "ask for 1 to 108580, not 0"),
    "a negative size": (partial(SharedVocabulary.load, None, -1), "ask for 1 to 108580, not -1"),
    "a size in text": (partial(SharedVocabulary(["a"]).first, "1"), "ask for 1 to 1, not '1'"),
    "a fraction of a word": (partial(SharedVocabulary(["a"]).first, 1.0), "ask for 1 to 1, not 1.0"),
    "more than there is": (partial(SharedVocabulary(["a"]).first, 2), "ask for 1 to 1, not 2"),
    "the name of a tokenizer": (
        partial(SharedVocabulary(["a"]).token_ids, "qwen2"),
        "the tokenizer is 'qwen2': load it",
    ),
    "names of tokenizers": (partial(SharedVocabulary.build, ["qwen2"], ["a"]), "the tokenizer is 'qwen2': load it"),
    "no tokenizers": (partial(SharedVocabulary.build, [], ["a"]), "name at least one tokenizer"),
}


@pytest.fixture(scope="module")
def compose(vision, text):
    """The composing of a model from parts that are loaded once."""
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    parts = vision, AutoModelForCausalLM.from_pretrained(text)
    defaults = {"vocabulary": [100, 101], "processor": processor, "projector_hidden_size": 8}

    def compose(**options):
        return LangBridgeForConditionalGeneration.from_vision_text_pretrained(*parts, **{**defaults, **options})

    return compose


@pytest.mark.parametrize("name", COMPOSING)
def test_composing_refuses(compose, name):
    options, sentence = COMPOSING[name]
    with pytest.raises((ValueError, StrictDataclassError), match=sentence):
        compose(**options)


@pytest.mark.parametrize("name", CONFIGURATION)
def test_a_configuration_refuses(name):
    options, sentence = CONFIGURATION[name]
    with pytest.raises((ValueError, StrictDataclassError), match=sentence):
        LangBridgeConfig(**options)


@pytest.mark.parametrize("name", VOCABULARY)
def test_a_vocabulary_refuses(name):
    call, sentence = VOCABULARY[name]
    with pytest.raises((ValueError, OSError), match=sentence):
        call()


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "8"])
def test_a_processor_refuses_what_is_no_number_of_words(vision, text, number):
    with pytest.raises(ValueError, match=rf"`words_per_image` is {number!r}: give a whole number of at least 1"):
        LangBridgeProcessor.from_vision_text_pretrained(vision, text, words_per_image=number)


def test_a_configuration_of_a_later_version_or_by_another_name_is_read():
    config = LangBridgeConfig(entropy_of_coffee=1, image_token_id=7)
    assert (config.entropy_of_coffee, config.image_token_index) == (1, 7)


@pytest.mark.parametrize(
    ("options", "warned"),
    [({"projector_hidden_size": 33}, [True]), ({"projector_hidden_size": 32}, []), ({"adapter_type": "mlp"}, [])],
)
def test_composing_warns_of_what_cannot_be_exported(compose, options, warned, monkeypatch):
    said = []
    monkeypatch.setattr(configuration_langbridge.logger, "warning_once", said.append)
    compose(**options)
    assert [
        "only up to the language model's width, 32, can the adapter be exported" in line for line in said
    ] == warned

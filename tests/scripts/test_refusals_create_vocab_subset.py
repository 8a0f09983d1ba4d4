# SPDX-License-Identifier: Apache-2.0
"""What scripts/create_vocab_subset.py refuses."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "create_vocab_subset.py"

REFUSED = [
    ("--language_model qwen --vocab_size 0", "--vocab_size: must be a whole number of 1 or more"),
    ("--language_model qwen --vocab_size many", "--vocab_size: must be a whole number of 1 or more, but is 'many'"),
    ("--language_model qwen --vocab_size 999999", "the vocabulary has 108580 surfaces: ask for 1 to 108580"),
    ("--language_model qwen --vocab_size 5 --output file", "file exists: remove it"),
    ("--language_model absent", "'absent' must be a Hub id or a local folder that holds a tokenizer"),
    ("--tokenizers {language_model}", "--tokenizers and --texts go together"),
    ("--tokenizers {language_model} --texts absent.txt", "there is no file absent.txt"),
    ("--tokenizers {language_model} --texts {nothing_txt}", "nothing.txt is empty"),
    ("--tokenizers {language_model} --texts {photos}/red.png", "--texts .*red.png could not be read as UTF-8 text"),
    ("--language_model qwen --tokenizers {language_model}", "not allowed with argument"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(options, sentence)

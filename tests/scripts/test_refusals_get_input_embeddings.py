# SPDX-License-Identifier: Apache-2.0
"""What scripts/get_input_embeddings.py refuses."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "get_input_embeddings.py"

REFUSED = [
    ("--language_model {tower} --vocab_path {words_json} --output_dir out", "is a model of type clip_vision_model"),
    ("--language_model {raw} --vocab_path {words_json} --output_dir out", "is a whole LangBridge"),
    (
        "--language_model absent --vocab_path {words_json} --output_dir out",
        "--language_model 'absent' must be a Hub id",
    ),
    (
        "--language_model {language_model} --vocab_path absent.json --output_dir out",
        "--vocab_path there is no vocabulary file absent.json",
    ),
    (
        "--language_model {language_model} --vocab_path {text_txt} --output_dir out",
        "--vocab_path .*text.txt is damaged",
    ),
    ("--language_model {language_model} --vocab_path {words_json} --output_dir file", "file"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(options, sentence)

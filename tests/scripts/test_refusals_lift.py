# SPDX-License-Identifier: Apache-2.0
"""What scripts/lift.py refuses."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "lift.py"

REFUSED = [
    ("--model absent", "No model can be found at absent"),
    ("--model /absent/models/llava", "No model can be found at /absent/models/llava .There is no folder"),
    ("--model {llava}/config.json", "config.json is a file: name the folder"),
    ("--model {raw}", "is a LangBridge already"),
    ("--model {lora}", "holds a LoRA"),
    ("--model {language_model}", "is a model of type qwen2: only the architectures of LLaVA"),
    ("--model {llava_with_nan}", "linear_1.weight` in .* holds values that are not finite"),
    ("--model {llava} --ridge -1", "--ridge: must be a number of 0 or more, but is '-1'"),
    ("--model {llava} --ridge nan", "--ridge: must be a number"),
    ("--model {llava} --ridge inf", "--ridge: must be a number"),
    ("--model {llava} --vocab_size 0", "--vocab_size: must be a whole number of 1 or more"),
    ("--model {llava} --vocab_size ten", "--vocab_size: must be a whole number of 1 or more, but is 'ten'"),
    ("--model {llava} --vocabulary {words_json} --vocab_size 99", "the vocabulary has 3 surfaces: ask for 1 to 3"),
    ("--model {llava} --vocabulary absent.json", "no vocabulary file absent.json"),
    ("--model {llava} --vocabulary {text_txt}", "text.txt is damaged, it is not JSON"),
    ("--model {llava} --dtype int8", "--dtype: invalid choice: 'int8'"),
    ("--model {llava} --output_dir taken", "taken exists"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(f"--output_dir out {options}", sentence)

# SPDX-License-Identifier: Apache-2.0
"""What scripts/retrieve.py refuses."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "retrieve.py"

REFUSED = [
    ("--model absent", "absent must be the folder or Hub id of a LangBridge"),
    ("--model {grounded_adapter}", "is an adapter alone, not a LangBridge checkpoint"),
    ("--model {raw_with_nan}", "holds values that are not finite"),
    ("--model {grounded} --adapter {grounded_adapter}", "not allowed with argument --model"),
    ("--adapter {grounded_adapter}", "--adapter and --vision_tower go together"),
    ("--model {grounded} --vision_tower {tower}", "--adapter and --vision_tower go together"),
    ("--adapter {grounded_adapter} --vision_tower {language_model}", "vision tower .* is a language model"),
    ("--adapter {grounded} --vision_tower {tower}", "no adapter.safetensors|no vocabulary.json"),
    (
        "--adapter {reordered} --vision_tower {tower}",
        "vocabulary.json is not the one that the weights were saved with",
    ),
    ("--adapter {raw_adapter} --vision_tower {tower}", "Captions as words need coefficients that are distributions"),
    ("--adapter {grounded_adapter} --vision_tower {tower} --captions_as states", "--adapter has no language model"),
    ("--model {raw} --captions_as words", "Captions as words need coefficients that are distributions"),
    ("--model {grounded} --vocab_size 0", "--vocab_size: must be a whole number of 1 or more"),
    ("--model {grounded} --vocabulary {words_json}", "This adapter is made of words of its own"),
    ("--model {grounded} --split nowhere", "nowhere"),
    ("--model {grounded} --dataset absent.json", "absent.json"),
    ("--model {grounded} --output file", "--output file exists"),
    ("--model {grounded} --output absent/out.json", "there is no folder absent"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(f"--dataset {{captions_json}} {options}", sentence)

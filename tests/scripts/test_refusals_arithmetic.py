# SPDX-License-Identifier: Apache-2.0
"""What scripts/arithmetic.py refuses."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "arithmetic.py"

REFUSED = [
    ("--model absent --plus {photos}/red.png", "absent must be the folder or Hub id of a LangBridge"),
    ("--model {lora} --plus {photos}/red.png", "holds a LoRA"),
    ("--model {llava} --plus {photos}/red.png", "is a stock LLaVA"),
    ("--model {raw_with_nan} --plus {photos}/red.png", "holds values that are not finite"),
    ("--model {raw}", "required: --plus"),
    ("--model {raw} --plus absent.png", "absent.png does not exist"),
    ("--model {raw} --plus {broken}/a.png", "a.png is of no format that can be decoded"),
    ("--model {raw} --plus {photos}/red.png --minus {photos}/red.png", "Nothing is left"),
    ("--model {raw} --plus {photos}/red.png --on words", "--on words needs coefficients that are distributions"),
    ("--model {raw} --plus {photos}/red.png --photos absent", "--photos absent must be a folder .* no such folder"),
    ("--model {raw} --plus {photos}/red.png --photos {empty}", "--photos .*empty must be a folder .* holds none"),
    ("--model {raw} --plus {photos}/red.png --photos {broken}", "None of the 1 images of --photos"),
    ("--model {raw} --plus {photos}/red.png --vocab_size 0", "--vocab_size: must be a whole number of 1 or more"),
    ("--model {raw} --plus {photos}/red.png --vocab_size 5", "This adapter is made of words of its own"),
    ("--model {raw} --plus {photos}/red.png --output file", "--output file exists"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(options, sentence)

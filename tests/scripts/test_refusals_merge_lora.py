# SPDX-License-Identifier: Apache-2.0
"""What scripts/merge_lora.py refuses; tests/trainer/checkpointing/test_merge_lora.py has the broken LoRAs."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "merge_lora.py"

REFUSED = [
    ("--model absent", "no adapter_config.json in absent, .*there is no such folder"),
    ("--model {raw}", "it is a complete model, which needs no merging"),
    ("--model {raw_adapter}", "it is an adapter alone"),
    ("--model {lora_of_nothing}", "No model can be found at .*lora_of_nothing/gone, .*no such folder.* as --base"),
    (
        "--model {lora_of_two}",
        "is 'taken', which may be the folder of that name here or a repository on the Hub: .* as --base",
    ),
    ("--model {lora} --base {language_model}", "is a model of type qwen2, no LangBridge"),
    ("--model {lora} --base {lora_of_two}", "is itself a LoRA"),
    ("--model {lora} --base absent", "No model can be found at absent, which --base names"),
    ("--model {lora} --base {raw_with_nan}", "linear_1.weight` in .* holds values that are not finite"),
    ("--model {lora} --dtype int8", "--dtype: invalid choice: 'int8'"),
    ("--model {lora} --output_dir taken", "taken exists"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(f"--output_dir out {options}", sentence)

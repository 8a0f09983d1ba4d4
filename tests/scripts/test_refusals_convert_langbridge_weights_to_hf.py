# SPDX-License-Identifier: Apache-2.0
"""What scripts/convert_langbridge_weights_to_hf.py refuses; tests/modeling_langbridge/conversion has the rest."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "convert_langbridge_weights_to_hf.py"

REFUSED = [
    ("--model absent --vocabulary {words_json}", "no file absent/config.json"),
    ("--model {raw} --vocabulary {words_json}", "`model_type` in .* is 'langbridge', but checkpoints of the original"),
    ("--model {llava} --vocabulary {words_json}", "`model_type` in .* is 'llava', but checkpoints of the original"),
    ("--model {raw}", "required: --vocabulary"),
    ("--model {raw} --vocabulary {words_json} --output_dir taken", "taken exists"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(f"--output_dir out {options}", sentence)

# SPDX-License-Identifier: Apache-2.0
"""What scripts/push_to_hub.py refuses, without a Hub; tests/hub_cards has the rest."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "push_to_hub.py"

REFUSED = [
    ("--folder absent", "There is no folder absent"),
    ("--folder {empty}", "holds neither a config.json nor a vocabulary.json"),
    ("--folder {lora}", "holds a LoRA: .*scripts/merge_lora.py"),
    ("--folder {tower}", "`model_type` in .* is 'clip_vision_model'"),
    ("--folder {raw_with_nan}", "linear_1.weight` in .* holds values that are not finite"),
    ("--folder {llava_with_nan}", "linear_1.weight` in .* holds values that are not finite"),
    ("--folder {reordered}", "vocabulary.json is not the one that the weights were saved with"),
    ("--folder {other_code}", "image_opening.py is not the image_opening.py of this LangBridge"),
    ("--folder {raw} --repo_id 'user/my model'", "takes no repository called 'user/my model'"),
    ("--folder {raw} --results absent.json", "absent.json"),
    ("--folder {raw} --results {text_txt}", "text.txt must hold a JSON list"),
    ("--folder {raw} --results {words_json}", "words.json must hold a JSON list"),
    ("--folder {raw} --photos absent.png", "absent.png"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(f"--repo_id user/name --base_model a/b --base_model c/d --dry_run {options}", sentence)

# SPDX-License-Identifier: Apache-2.0
"""What `plan.py` answers to careless options: one sentence, and nothing is written."""

import pytest
from paths import SCRIPTS
from refusals import assert_refused


SCRIPT = SCRIPTS / "plan.py"
REFUSED = {
    "nothing to plan": ([], "Say what to train: --model, or --vision_tower and --language_model"),
    "a folder that is not there": (
        ["--vision_tower", "absent", "--language_model", "{text}"],
        "absent",
    ),
    "a tower for a language model": (
        ["--vision_tower", "{vision}", "--language_model", "{vision}"],
        "The language model .* is a model of type clip_vision_model: give it as the vision tower",
    ),
    "a language model for a tower": (
        ["--vision_tower", "{text}", "--language_model", "{text}"],
        "The vision tower .* is a language model of type qwen2",
    ),
    "a model that is none": (["--model", "{text}"], "is a language model of type qwen2, not a LangBridge checkpoint"),
    "both": (["--model", "a", "--vision_tower", "b"], "--model is a whole LangBridge; .* leave one side out"),
    "a memory without a unit": (["--model", "a", "--memory", "24"], "`memory` is '24': give a whole number of GB"),
    "no text": (["--model", "a", "--text_tokens", "0"], "`text_tokens` is 0: give a whole number of at least 1"),
    "another device": (["--model", "a", "--device", "tpu"], "`device` is 'tpu': give gpu or cpu"),
    "a file that exists": (["--model", "a", "--json", "there.json"], "--json there.json exists"),
    "an option of nothing": (["--model", "a", "--lora_r", "8"], "--lora_r would have no effect"),
    "a loss that is not counted": (
        ["--model", "a", "--label_smoothing_factor", "0.1"],
        "`label_smoothing_factor`, which takes all logits, is not planned",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_sentence(name, vision, text, tmp_path, monkeypatch):
    arguments, sentence = REFUSED[name]
    (tmp_path / "there.json").write_text("{}")
    arguments = [argument.format(vision=vision, text=text) for argument in arguments]
    assert_refused(SCRIPT, arguments, sentence, tmp_path)

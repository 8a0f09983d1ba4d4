# SPDX-License-Identifier: Apache-2.0
"""What scripts/transfer.py refuses."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "transfer.py"

REFUSED = [
    ("--model absent --language_model {language_model}", "no folder absent"),
    ("--model {raw}/config.json --language_model {language_model}", "config.json is a file: name the folder"),
    ("--model {llava} --language_model {language_model}", "is a stock LLaVA, .*scripts/lift.py"),
    ("--model {lora} --language_model {language_model}", "holds a LoRA: .*scripts/merge_lora.py"),
    ("--model {tower} --language_model {language_model}", "is a model of type clip_vision_model, .*--vision_tower"),
    (
        "--model {language_model} --language_model {language_model}",
        "is a language model of type qwen2, .*--language_model",
    ),
    (
        "--model {raw_with_nan} --language_model {language_model}",
        "linear_1.weight` in .* holds values that are not finite",
    ),
    (
        "--model {reordered} --vision_tower {tower} --language_model {language_model}",
        "vocabulary.json is not the one that the weights were saved with",
    ),
    (
        "--model {raw_adapter} --vision_tower {language_model} --language_model {language_model}",
        "vision tower .* is a language model of type qwen2",
    ),
    ("--model {raw_adapter} --vision_tower absent --language_model {language_model}", "no folder absent"),
    (
        "--model {raw} --language_model absent",
        "'absent' must be a Hub id or a local folder that holds a language model",
    ),
    ("--model {raw} --language_model {tower}", "language model .* is a model of type clip_vision_model"),
    ("--model {raw} --language_model {raw}", "language model .* is a whole LangBridge"),
    ("--model {raw} --language_model {raw_adapter}", "language model .* is an adapter alone"),
    ("--model {raw} --language_model {llava}", "language model .* is a stock LLaVA"),
    (
        "--model {raw} --language_model {language_model} --words_per_image 0",
        "--words_per_image: must be a whole number of 1 or more, but is '0'",
    ),
    (
        "--model {raw} --language_model {language_model} --pool_patches 0",
        "--pool_patches: must be a whole number of 1 or more, but is '0'",
    ),
    ("--model {raw} --language_model {language_model} --pool_patches 3", "`pool_patches` is 3, but the vision tower"),
    (
        "--model {raw} --language_model {language_model} --words_per_image few",
        "--words_per_image: must be a whole number",
    ),
    (
        "--model {grounded} --language_model {language_model} --words_per_image 61",
        "`words_per_image` is 61, but must be between 1 and",
    ),
    (
        "--model {raw} --language_model {language_model} --distill_steps 0",
        "--distill_steps: must be a whole number of 1 or more",
    ),
    (
        "--model {raw} --language_model {language_model} --distill_batch_size -3",
        "--distill_batch_size: must be a whole number of 1",
    ),
    (
        "--model {raw} --language_model {language_model} --distill_learning_rate nan",
        "--distill_learning_rate: must be a number of 0",
    ),
    (
        "--model {raw} --language_model {language_model} --photos absent",
        "--photos absent must be a folder .* no such folder",
    ),
    (
        "--model {raw} --language_model {language_model} --photos {words_json}",
        "--photos .*words.json must be a folder",
    ),
    (
        "--model {raw} --language_model {language_model} --photos {empty}",
        "--photos .*empty must be a folder .* holds none",
    ),
    (
        "--model {raw} --language_model {language_model} --photos {broken}",
        "None of the 1 images of --photos .*broken can be opened",
    ),
    ("--model {grounded} --language_model {language_model} --distill_images absent", "absent"),
    (
        "--model {grounded} --language_model {language_model} --distill_caption_steps 5",
        "--distill_caption_steps needs --distill_images",
    ),
    (
        "--model {grounded} --language_model {language_model} --distill_images {photos}",
        "Distilling takes 10 images or more, but there are 2",
    ),
    ("--model {raw} --language_model {language_model} --split_words away", "--split_words: invalid choice: 'away'"),
    ("--model {raw} --language_model {language_model} --dtype int8", "--dtype: invalid choice: 'int8'"),
    ("--model {raw} --language_model {language_model} --output_dir taken", "taken exists"),
    ("--model {raw} --language_model {language_model} --output_dir file", "file exists"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(f"--output_dir out {options}", sentence)

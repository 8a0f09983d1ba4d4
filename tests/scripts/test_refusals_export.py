# SPDX-License-Identifier: Apache-2.0
"""What scripts/export.py refuses."""

import pytest
from paths import SCRIPTS


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "export.py"

REFUSED = [
    ("--model absent", "absent must be the folder or Hub id of a LangBridge"),
    ("--model {raw_adapter}", "is an adapter alone, not a LangBridge checkpoint"),
    ("--model {llava}", "is a stock LLaVA, not a LangBridge checkpoint"),
    ("--model {lora}", "holds a LoRA: .*scripts/merge_lora.py"),
    ("--model {tower}", "is a model of type clip_vision_model, not a LangBridge"),
    ("--model {grounded}", "`coefficient_activation` is gated_softmax, .*--distill_images"),
    ("--model {raw}", "`projector_hidden_size` is 40, but stock LLaVA"),
    ("--model {raw_with_nan}", "`projector_hidden_size` is 40, but stock LLaVA"),
    ("--model {mlp} --dtype int8", "--dtype: invalid choice: 'int8'"),
    ("--model {mlp} --output_dir taken", "taken exists"),
    ("--adapter {raw_adapter} --vision_tower {tower}", "--adapter has no language model, .*--format onnx"),
    ("--format onnx --adapter {raw_adapter}", "--adapter and --vision_tower go together"),
    ("--format onnx --model {raw} --dtype float16", "--dtype is for --format llava: .*docs/onnx.md"),
]


REFUSED_AS_ONNX = [
    ("--model absent", "absent must be the folder or Hub id of a LangBridge"),
    ("--model {raw_adapter}", "is an adapter alone, not a LangBridge checkpoint"),
    ("--model {raw_with_nan}", "finite"),
    (
        "--adapter {raw} --vision_tower {tower}",
        "There is no vocabulary.json, no adapter.safetensors in",
    ),
    ("--adapter {raw_adapter} --vision_tower {language_model}", "The vision tower .* is a .*language model"),
    ("--model {mlp} --output_dir taken", "taken exists"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(f"--output_dir out {options}", sentence)


@pytest.mark.parametrize(("options", "sentence"), REFUSED_AS_ONNX)
def test_bad_input_for_a_graph_gets_one_sentence(refuse, options, sentence):
    pytest.importorskip("onnxruntime")
    refuse(f"--output_dir out --format onnx {options}", sentence)

# SPDX-License-Identifier: Apache-2.0
"""What a server asks of a checkpoint that it runs inside its own engine, as vLLM's transformers backend does.

Such a server builds `AutoModel`, gives hidden states to an output layer of its own, and loads the checkpoint's weights
by name. `AutoModel` of a saved LangBridge is the generating class, for pipelines; docs/serving.md names the setting
that gives a server the base class. vLLM itself does not run here: this follows its source.
"""

import json

import pytest
from elsewhere import run_elsewhere
from paths import ROOT
from tiny_parts import make_image


SETTING = {
    "auto_map": {
        "AutoConfig": "configuration_langbridge.LangBridgeConfig",
        "AutoModel": "modeling_langbridge.LangBridgeModel",
    }
}
ASKS = """
import json
import os

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

folder, picture, setting = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
weights = load_file(folder + "/model.safetensors")
of_base = {name.removeprefix("model."): weight for name, weight in weights.items() if name != "lm_head.weight"}
inputs = processor(text="<image> what is it?", images=Image.open(picture), return_tensors="pt")
sizes = processor._get_num_multimodal_tokens(image_sizes=[(10_000, 10_000)])

fields = json.loads(setting)
child = os.fork()  # as a process keeps to the class that it has taken first
if child:
    os.waitpid(child, 0)
else:
    fields = {}
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
config.update(fields)
served = AutoModel.from_config(config, trust_remote_code=True)
told = {"class": type(served).__name__, "compatible": served.is_backend_compatible()}
missing, unexpected = served.load_state_dict(of_base, strict=False)
told["missing"], told["unexpected"] = len(missing), len(unexpected)
with torch.no_grad():
    tokens = torch.cat(list(served.get_image_features(inputs["pixel_values"]).pooler_output))
    told["as many tokens"] = tokens.shape[0] == sizes["num_image_tokens"][0]
    told["patches"] = sizes["num_image_patches"][0]
    embeds = served.get_input_embeddings()(inputs["input_ids"])
    embeds[inputs["input_ids"] == processor.image_token_id] = tokens
    hidden = served(inputs_embeds=embeds, use_cache=False, return_dict=False)[0][0]
    told["hidden states"] = hidden.shape[-1] == config.get_text_config().hidden_size
    if fields:
        torch.testing.assert_close(model.lm_head(hidden), model(**inputs).logits[0])
print(json.dumps(told))

if fields:
    pipe = pipeline("image-text-to-text", model=served, processor=processor)
    content = [{"type": "image", "path": picture}, {"type": "text", "text": "what is it?"}]
    pipe(text=[{"role": "user", "content": content}])
"""


@pytest.fixture(scope="module")
def told(composed, tmp_path_factory) -> tuple[list[dict], str]:
    """What a fresh process says of the class that is served without the setting and with it, and its last error."""
    folder = tmp_path_factory.mktemp("saved")
    for part in composed[:2]:
        part.save_pretrained(folder / "model")
    make_image().save(folder / "picture.png")
    result = run_elsewhere(ASKS, folder / "model", folder / "picture.png", json.dumps(SETTING), home=folder / "home")
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_the_setting_gives_servers_the_base_class_whose_weights_are_found_and_whose_logits_are_right(told):
    shown = "".join((ROOT / "docs" / "serving.md").read_text(encoding="utf-8").split())
    assert f"--hf-overrides'{json.dumps(SETTING, separators=(',', ':'))}'" in shown
    assert len(told[0]) == 2, told[1][-3000:]
    weights, seen = {"missing": 0, "unexpected": 0}, {"as many tokens": True, "patches": 1, "hidden states": True}
    assert told[0][1] == {"class": "LangBridgeModel", "compatible": True, **weights, **seen}


def test_without_the_setting_no_weight_is_found_and_logits_stand_where_hidden_states_belong(told):
    found = told[0][0]
    assert (found["class"], found["hidden states"]) == ("LangBridgeForConditionalGeneration", False)
    assert found["missing"] > 0 and found["unexpected"] > 0


def test_a_pipeline_cannot_generate_with_the_base_class(told):
    assert "generate" in told[1].splitlines()[-1]

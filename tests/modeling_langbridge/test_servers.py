# SPDX-License-Identifier: Apache-2.0
"""What a server asks of a checkpoint that it runs inside its own engine, as vLLM's transformers backend does.

Such a server builds `AutoModel`, gives hidden states to an output layer of its own, and loads the checkpoint's weights
by name. `AutoModel` of a saved LangBridge is the generating class, for pipelines; docs/serving.md names the setting
that gives a server the base class. vLLM itself does not run here: this follows its source.
"""

import json

from elsewhere import run_elsewhere
from paths import ROOT


SETTING = {
    "auto_map": {
        "AutoConfig": "configuration_langbridge.LangBridgeConfig",
        "AutoModel": "modeling_langbridge.LangBridgeModel",
    }
}
ASKS = """
import json

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

folder, picture, setting = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
config.update(json.loads(setting))
served = AutoModel.from_config(config, trust_remote_code=True)
print(type(served).__name__, served.is_backend_compatible())

weights = load_file(folder + "/model.safetensors")
of_base = {name.removeprefix("model."): weight for name, weight in weights.items() if name != "lm_head.weight"}
missing, unexpected = served.load_state_dict(of_base, strict=False)
print(len(missing), len(unexpected))

model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
image = Image.open(picture)
sizes = processor._get_num_multimodal_tokens(image_sizes=[(10_000, 10_000)])
inputs = processor(text="<image> what is it?", images=image, return_tensors="pt")
with torch.no_grad():
    tokens = torch.cat(list(served.get_image_features(inputs["pixel_values"]).pooler_output))
    print(tokens.shape[0] == sizes["num_image_tokens"][0], sizes["num_image_patches"][0])
    embeds = served.get_input_embeddings()(inputs["input_ids"])
    embeds[inputs["input_ids"] == processor.image_token_id] = tokens
    hidden = served(inputs_embeds=embeds, use_cache=False, return_dict=False)[0][0]
    print(hidden.shape[-1] == config.get_text_config().hidden_size)
    if json.loads(setting):
        torch.testing.assert_close(model.lm_head(hidden), model(**inputs).logits[0])
"""


def ask(saved, setting: dict) -> list[str]:
    result = run_elsewhere(ASKS, saved / "model", saved / "picture.png", json.dumps(setting), home=saved / "home")
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.splitlines()


def test_the_setting_gives_servers_the_base_class_whose_weights_are_found_and_whose_logits_are_right(saved):
    shown = "".join((ROOT / "docs" / "serving.md").read_text(encoding="utf-8").split())
    assert f"--hf-overrides'{json.dumps(SETTING, separators=(',', ':'))}'" in shown
    assert ask(saved, SETTING) == ["LangBridgeModel True", "0 0", "True 1", "True"]


def test_without_the_setting_no_weight_is_found_and_logits_stand_where_hidden_states_belong(saved):
    name, weights, _, hidden = ask(saved, {})
    missing, unexpected = map(int, weights.split())
    assert (name, hidden) == ("LangBridgeForConditionalGeneration True", "False")
    assert missing > 0 and unexpected > 0


def test_a_pipeline_cannot_generate_with_the_base_class(saved):
    code = """
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
folder, picture = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
config.auto_map["AutoModel"] = "modeling_langbridge.LangBridgeModel"
model = AutoModel.from_pretrained(folder, config=config, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
content = [{"type": "image", "path": picture}, {"type": "text", "text": "what is it?"}]
pipe = pipeline("image-text-to-text", model=model, processor=processor)
pipe(text=[{"role": "user", "content": content}])
"""
    result = run_elsewhere(code, saved / "model", saved / "picture.png", home=saved / "home")
    assert result.returncode != 0
    assert "generate" in result.stderr.splitlines()[-1]

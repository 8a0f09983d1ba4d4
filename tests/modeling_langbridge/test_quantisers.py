# SPDX-License-Identifier: Apache-2.0
"""What a quantiser takes of a LangBridge by default: tower and language model, neither adapter nor output layer."""

import pytest
import torch
from elsewhere import run_elsewhere
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, QuantoConfig, TorchAoConfig


def int8_of_torchao() -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


QUANTISERS = {
    "4 bits": ("bitsandbytes", lambda: BitsAndBytesConfig(load_in_4bit=True)),
    "8 bits": ("bitsandbytes", lambda: BitsAndBytesConfig(load_in_8bit=True)),
    "torchao": ("torchao", int8_of_torchao),
    "quanto": ("optimum.quanto", lambda: QuantoConfig(weights="int8")),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", QUANTISERS)
def test_a_plain_quantisation_leaves_adapter_and_output_layer_as_they_are(model, tmp_path, name, dtype):
    package, make_config = QUANTISERS[name]
    pytest.importorskip(package)
    model.save_pretrained(tmp_path)
    features = torch.randn(2, 16, 24)
    with torch.no_grad():
        expected = model.model.adapt(features)
    quantised = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=dtype, device_map="cpu", quantization_config=make_config()
    )
    for part in (quantised.model.language_model, quantised.model.vision_tower):
        layers = [module for module in part.modules() if isinstance(module, nn.Linear)]
        assert layers and not any(type(layer.weight) is nn.Parameter for layer in layers)
    for part in (quantised.model.multi_modal_projector, quantised.model.vocabulary_head, quantised.lm_head):
        assert all(type(p) is nn.Parameter and p.is_floating_point() for p in part.parameters())
    assert quantised.model.vocabulary_head.token_ids.equal(model.model.vocabulary_head.token_ids)
    with torch.no_grad():
        found = quantised.model.adapt(features.to(dtype)).float()
    assert quantised.model.folded_adapter.map.made
    assert (found - expected).norm() / expected.norm() < 0.02
    quantised.model.multi_modal_projector.requires_grad_(True)
    quantised.train().model.adapt(features.to(dtype)).sum().backward()
    assert quantised.model.multi_modal_projector.linear_2.weight.grad.abs().sum() > 0


IN_A_FRESH_PROCESS = """
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

model = AutoModelForImageTextToText.from_pretrained(
    sys.argv[1], trust_remote_code=True, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
)
assert "modeling_langbridge" not in sys.modules
packed = {name.split(".")[1] for name, p in model.named_parameters() if not p.is_floating_point()}
print(sorted(packed))
"""


@pytest.mark.slow
def test_a_checkpoints_own_code_leaves_them_as_they_are_too(saved, tmp_path):
    pytest.importorskip("bitsandbytes")
    result = run_elsewhere(IN_A_FRESH_PROCESS, saved / "model", home=tmp_path / "home")
    assert result.stdout.strip().endswith("['language_model', 'vision_tower']"), result.stderr[-3000:]

# SPDX-License-Identifier: Apache-2.0
"""Weights in 4 bits, without their values."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer


def quantize_empty(model: PreTrainedModel, quantization: BitsAndBytesConfig) -> None:
    """Gives a model on the meta device bitsandbytes' layers, as loading does."""
    quantizer = AutoHfQuantizer.from_config(quantization)
    quantizer.preprocess_model(model, device_map=None)
    quantizer.postprocess_model(model)


def quantize_layers(model: nn.Module, quantization: BitsAndBytesConfig) -> Iterator[torch.Tensor]:
    """Packs the fake weights of bitsandbytes' layers, and gives the constants that belong to them."""
    from bitsandbytes.functional import quantize_4bit
    from bitsandbytes.nn import Linear4bit

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            weight = torch.empty(layer.out_features, layer.in_features, dtype=torch.bfloat16)
            packed, state = quantize_4bit(weight, quant_type=quantization.bnb_4bit_quant_type)
            layer.weight = nn.Parameter(packed, requires_grad=False)
            layer.weight.quant_state = layer.quant_state = state
            # Quantised in their turn they take a byte each. To do so needs values, which fake tensors have not.
            nested = quantization.bnb_4bit_use_double_quant
            yield torch.empty_like(state.absmax, dtype=torch.uint8) if nested else state.absmax

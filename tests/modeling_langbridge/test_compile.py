# SPDX-License-Identifier: Apache-2.0
"""The model compiles as one graph, in inference and in training."""

import pytest
import torch
from tiny_parts import ask, make_image

from modeling_langbridge import LangBridgeForConditionalGeneration


@pytest.mark.parametrize("activation", ["linear", pytest.param("gated_softmax", marks=pytest.mark.slow)])
def test_the_compiled_model_equals_the_eager_one(vision, text, processor, activation):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor, projector_hidden_size=40, coefficient_activation=activation
    )
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        eager = model(**inputs).logits  # transformers installs its hooks on the first, uncompiled call
        # "aot_eager" needs no C compiler, which a machine may lack.
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(**inputs).logits, eager)

    gradients = []
    for run in (model.train(), compiled):
        model.zero_grad()
        run(**inputs, labels=inputs.input_ids).loss.backward()
        gradients.append(model.model.vocabulary_head.weight.grad.clone())
    torch.testing.assert_close(*gradients)

# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The model compiles as one graph, in inference and in training."""

import pytest
import torch
from tiny_parts import ask, make_image

from modeling_langbridge import LangBridgeForConditionalGeneration


@pytest.mark.parametrize("activation", ["linear", "gated_softmax"])
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

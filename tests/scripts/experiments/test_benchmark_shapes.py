# SPDX-License-Identifier: Apache-2.0
"""The sizes that benchmarks measure: published ones, and smaller ones in proportion."""

import pytest
import torch

from experiments.benchmarks.models import make_langbridge
from experiments.benchmarks.shapes import Shapes


@pytest.mark.parametrize(
    ("pair", "parameters"),
    # As their authors count them, in billions, output layer included where it is not tied; and CLIP-L/336's tower.
    [("qwen2_0.5b", 0.49 + 0.30), ("qwen2_7b", 7.62 + 0.30)],
)
def test_whole_models_have_the_published_sizes(pair, parameters):
    with torch.device("meta"):
        model = make_langbridge(Shapes(pair=pair))
    found = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "multi_modal_projector" not in name and "vocabulary_head" not in name
    )
    assert found / 1e9 == pytest.approx(parameters, rel=0.02)


def test_widths_are_scaled_and_layers_are_not():
    whole, quarter = Shapes(pair="qwen2_7b"), Shapes(0.25, "qwen2_7b")
    assert (quarter.text().hidden_size, quarter.vision().hidden_size) == (896, 256)
    assert quarter.text().num_hidden_layers == whole.text().num_hidden_layers == 28
    assert quarter.words * 4 == whole.words
    assert quarter.num_image_tokens == whole.num_image_tokens == 576
    assert 4 * quarter.text().vocab_size == whole.text().vocab_size


def test_layers_and_vocabulary_are_as_asked():
    shapes = Shapes(0.25, layers=3, image_size=28, vocab_size=100)
    assert shapes.text().num_hidden_layers == shapes.vision().num_hidden_layers == 3
    assert shapes.num_image_tokens == 4
    assert shapes.parts()["image_token_index"] == 99

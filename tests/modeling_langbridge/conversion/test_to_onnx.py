# SPDX-License-Identifier: Apache-2.0
"""The ONNX graphs of a vision tower and its adapter give in onnxruntime what the model gives in torch."""

import json
import os
from pathlib import Path

import pytest
import torch
from tiny_parts import VISION_TOWERS, save_vision_tower
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter, LangBridgeNextConfig


pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from modeling_langbridge.conversion.to_onnx import (  # noqa: E402
    TOLERANCE,
    CoefficientsGraph,
    VisualTokensGraph,
    check_fits_onnx,
    write_onnx,
)


PARTS = Path(os.environ.get("LANGBRIDGE_CACHE") or "~/.cache/langbridge/parts").expanduser()
DISTRIBUTIONS = {"coefficient_activation": "gated_softmax"}


def run(path: Path, pixel_values: torch.Tensor) -> torch.Tensor:
    (found,) = onnxruntime.InferenceSession(path).run(None, {"pixel_values": pixel_values.numpy()})
    return torch.from_numpy(found)


def assert_sees_alike(model, processor, folder: Path) -> None:
    """Compares the visual tokens of one image, and of more than the tower is given at once in torch."""
    write_onnx(VisualTokensGraph(model), processor.image_processor, folder)
    side = processor.image_processor.crop_size["height"]
    for images in (1, 20):
        pixel_values = torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = torch.stack(model.get_image_features(pixel_values).pooler_output)  # (images, tokens, d)
        found = run(folder / "onnx" / "vision_encoder.onnx", pixel_values)
        assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {**DISTRIBUTIONS, "words_per_image": 4},
        pytest.param({**DISTRIBUTIONS, "words_per_image": 4, "linear_remainder": True}, marks=pytest.mark.slow),
        pytest.param({"coefficient_activation": "softmax", "linear_remainder": True}, marks=pytest.mark.slow),
        pytest.param({"adapter_type": "mlp"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_graph_gives_the_visual_tokens_of_any_number_of_images(vision, text, tmp_path, fields):
    model, processor = compose(vision, text, **fields)
    assert_sees_alike(model, processor, tmp_path)
    content = (tmp_path / "onnx" / "vision_encoder.onnx").read_bytes()
    parts = (model.model.vision_tower, model.model.multi_modal_projector, model.model.vocabulary_head)
    numbers = sum(p.numel() for part in parts if part is not None for p in part.parameters())
    assert len(content) < 4 * numbers + 40_000  # the graph itself, and nothing of the language model but V words
    assert b"site-packages" not in content


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VISION_TOWERS.keys() - {"clip"}))
def test_every_vision_tower_has_a_graph(text, tmp_path, name):
    model, processor = compose(save_vision_tower(name, tmp_path / "tower"), text)
    assert_sees_alike(model, processor, tmp_path)


def test_weights_that_are_not_numbers_leave_an_error(vision, text, tmp_path):
    model, processor = compose(vision, text, **DISTRIBUTIONS)
    with torch.no_grad():
        model.model.vocabulary_head.bias[0] = torch.nan
    with pytest.raises(ValueError, match="coefficients differ from the LangBridge's by nan"):
        write_onnx(CoefficientsGraph(model), processor.image_processor, tmp_path)


def test_tiles_have_no_graph(vision, text):
    config = compose(vision, text)[0].config.to_dict()
    del config["model_type"]
    with pytest.raises(ValueError, match="tiles .* --format llava"):
        check_fits_onnx(LangBridgeNextConfig(**config))


@pytest.mark.slow
def test_the_shipped_adapters_graph_reads_ten_photos_as_torch_does(data, tmp_path):
    if not (PARTS / "efficientnet_lite0").is_dir():
        pytest.skip(f"no efficientnet_lite0 in {PARTS}: `make parts` fetches it")
    model, processor = LangBridgeAdapter.grounded_efficientnet_lite0().join(str(PARTS / "efficientnet_lite0"))
    write_onnx(CoefficientsGraph(model), processor.image_processor, tmp_path)
    rows = (json.loads(line) for line in (data / "flickr8k" / "captions.jsonl").read_text().splitlines())
    names = sorted({row["image"] for row in rows})[:10]
    images = [processor.open_image(str(data / "flickr8k" / "images" / name)) for name in names]
    pixel_values = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.get_image_coefficients(pixel_values)  # (10, tokens, V)
    found = run(tmp_path / "onnx" / "model.onnx", pixel_values)
    assert len(found) == 10 and (found - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert found.sum(1).topk(8).indices.equal(expected.sum(1).topk(8).indices)

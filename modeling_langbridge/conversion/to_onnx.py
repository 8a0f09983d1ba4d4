# SPDX-License-Identifier: Apache-2.0
"""Export: a vision tower and its adapter as one ONNX graph, for phones, browsers and other places without torch.

A model with its language model becomes a graph of visual tokens, which whatever runs the language model takes in the
places of the image's placeholders; an adapter without one becomes a graph of coefficients, to be read as words.
The names of files, inputs and outputs are those of optimum and transformers.js.
"""

from pathlib import Path
from typing import NamedTuple

import onnxruntime
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from PIL import Image
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor

from ..configuration_langbridge import LangBridgeConfig
from ..configuration_langbridge_next import LangBridgeNextConfig
from ..folded_adapter import fold
from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..vocabulary_head import AffineMap


COLOURS = ("red", "blue")
TOLERANCE = 1e-4  # of the largest value, in float32: a tower of 24 layers adds up rounding


class CoefficientsGraph(nn.Module):
    """Images `(images, channels, height, width)` to coefficients `(images, tokens, V)`."""

    file, output = "model.onnx", "coefficients"

    def __init__(self, model: LangBridgeForConditionalGeneration):
        super().__init__()
        self.model = model.model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_coefficients(pixel_values)


class VisualTokensGraph(nn.Module):
    """Images `(images, channels, height, width)` to visual tokens `(images, tokens, d)`.

    It holds the language model's embeddings of the V words, or the one map into which linear coefficients fold.
    """

    file, output = "vision_encoder.onnx", "image_features"

    def __init__(self, model: LangBridgeForConditionalGeneration):
        super().__init__()
        self.model, config = model.model, model.config
        has_words = config.adapter_type == "langbridge"
        folds = has_words and config.coefficient_activation == "linear"
        self.folded = nn.ParameterList(self.fold()) if folds else None  # (d, H), (d,)
        self.words = nn.Buffer(self.model.get_word_embeddings()) if has_words and not folds else None  # (V, d)

    def fold(self) -> AffineMap:
        projector, head = self.model.multi_modal_projector, self.model.vocabulary_head
        return fold(projector.linear_2, head, self.model.get_input_embeddings())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = self.model.get_vision_features(pixel_values).pooler_output  # (images, tokens, d_v)
        if self.folded is not None:
            return self.model.multi_modal_projector(features, AffineMap(*self.folded))
        hidden_states = self.model.multi_modal_projector(features)  # (images, tokens, H), or d without words
        return hidden_states if self.words is None else self.model.vocabulary_head(hidden_states, self.words)


class GraphDifference(NamedTuple):
    """The largest difference of what onnxruntime and torch give for the same images, and torch's largest value."""

    difference: float
    largest: float

    def is_small(self) -> bool:
        return self.difference <= TOLERANCE * self.largest  # false where a value is not a number

    def __str__(self) -> str:
        return f"{self.difference:.2g} (the largest value is {self.largest:.3g})"


def check_fits_onnx(config: LangBridgeConfig) -> None:
    """Raises `ValueError` for a model of which no graph can be made: in tiles, or quantised."""
    if isinstance(config, LangBridgeNextConfig):
        raise ValueError(
            "The adapter is a LangBridge-NeXT's, which puts the tiles of an image together outside of any graph: "
            "export the model as a LLaVA-NeXT, --format llava."
        )
    if "quantization_config" in config.to_dict():
        raise ValueError("The model is quantised: export the same LangBridge in floating point.")


@torch.no_grad()
def to_onnx(graph: CoefficientsGraph | VisualTokensGraph, pixel_values: torch.Tensor) -> torch.onnx.ONNXProgram:
    """
    Traces a graph.

    Args:
        graph (`CoefficientsGraph` or `VisualTokensGraph`): In float32 and eval mode, on the CPU.
        pixel_values (`torch.Tensor` of shape `(images, channels, height, width)`):
            At least two images of the size that the graph is for; it takes any number of them.

    Returns:
        `torch.onnx.ONNXProgram`: the graph with its weights, without the paths of the machine that made it.
    """
    program = torch.onnx.export(
        graph.eval(),
        (pixel_values,),
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("images")}},
        output_names=[graph.output],
        verbose=False,
    )
    ClearMetadataAndDocStringPass()(program.model)
    return program


@torch.no_grad()
def write_onnx(
    graph: CoefficientsGraph | VisualTokensGraph, image_processor: BaseImageProcessor, folder: Path
) -> GraphDifference:
    """
    Writes a graph to `onnx/` in a folder, and compares it on one and on three images with what it was made of.

    Args:
        graph (`CoefficientsGraph` or `VisualTokensGraph`): As of [`to_onnx`].
        image_processor (`BaseImageProcessor`): The model's, whose settings are written beside.
        folder (`Path`): An existing one, see [`~modeling_langbridge.utils.files.atomic_folder`].

    Returns:
        [`GraphDifference`].

    Raises:
        `ValueError`: onnxruntime gives something else than torch.
    """
    pictures = [Image.linear_gradient("L").convert("RGB"), *(Image.new("RGB", (96, 64), name) for name in COLOURS)]
    pixel_values = image_processor(pictures, return_tensors="pt")["pixel_values"]  # (3, channels, height, width)
    path = folder / "onnx" / graph.file
    path.parent.mkdir()
    to_onnx(graph, pixel_values).save(path)
    vars(image_processor).pop("auto_map", None)  # loaded from a LangBridge, it would still name its code
    image_processor.save_pretrained(folder)

    session, expected = onnxruntime.InferenceSession(path), graph(pixel_values)
    differences = []
    for images in (1, 3):
        (found,) = session.run([graph.output], {"pixel_values": pixel_values[:images].numpy()})
        differences.append((torch.from_numpy(found) - expected[:images]).abs().max())
    difference = GraphDifference(torch.stack(differences).max().item(), expected.abs().max().item())
    if not difference.is_small():
        raise ValueError(
            f"The graph's {graph.output} differ from the LangBridge's by {difference}: nothing is written."
        )
    return difference

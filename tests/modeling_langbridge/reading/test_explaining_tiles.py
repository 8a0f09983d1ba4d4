# SPDX-License-Identifier: Apache-2.0
"""Explanations of images in tiles: patches on the whole picture."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_parts import SENTENCES

from modeling_langbridge import LangBridgeNextForConditionalGeneration, LangBridgeNextProcessor, SharedVocabulary
from modeling_langbridge.reading.explaining import explain
from modeling_langbridge.reading.patch_words import crop_to_patches, strongest_words


@pytest.fixture(scope="module")
def parts(vision, text):
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)
    torch.manual_seed(0)
    model = LangBridgeNextForConditionalGeneration.from_vision_text_pretrained(
        vision, text, SharedVocabulary.build([processor.tokenizer], SENTENCES), processor, projector_hidden_size=24
    )
    return model, processor


def ramp(width: int, height: int) -> Image.Image:
    """A picture whose red grows to the right and whose green grows downwards, all of it blue, unlike padding."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 0 * down + 255], -1).astype(np.uint8))


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (200, 50)])
def test_the_picture_is_whole_and_has_no_patch_of_padding_alone(parts, size):
    view, (rows, columns) = crop_to_patches(parts[1], ramp(*size))
    assert view.size == (columns * 8, rows * 8)
    assert (rows > columns) == (size[1] > size[0])
    pixels = np.asarray(view).astype(int)
    inside = pixels[..., 2] > 128
    padding = [int(inside.any(axis).argmax()) for axis in (0, 1)]
    assert max(padding) < 8
    pixels = pixels[inside.any(1)][:, inside.any(0)]
    assert (np.diff(pixels[..., 0], axis=1) >= -2).all() and (np.diff(pixels[..., 1], axis=0) >= -2).all()
    assert pixels[:, 0, 0].max() < 40 and pixels[:, -1, 0].min() > 215  # from one end to the other
    assert pixels[0, :, 1].max() < 40 and pixels[-1, :, 1].min() > 215


@pytest.mark.parametrize("size", [(90, 60), (40, 160)])
def test_coefficients_lie_where_their_patches_do(parts, size):
    model, processor = parts
    explanation = explain(model, processor, ramp(*size))
    (rows, columns), bridge = explanation.grid, model.model
    inputs = processor.image_processor(ramp(*size), return_tensors="pt")
    (features,) = bridge.get_patch_features(**inputs)
    coefficients = bridge.vocabulary_head(bridge.multi_modal_projector(features))[-rows * columns :]  # (patches, V)
    names = list(explanation.views[0].maps)
    found = strongest_words(model, processor, ramp(*size))
    order = [found.names.index(name) for name in names]
    maps = torch.stack([explanation.views[0].maps[name] for name in names], -1)  # (rows, columns, words)
    torch.testing.assert_close(maps.flatten(0, 1), coefficients[:, order])
    assert found.grid == explanation.grid


def test_a_change_of_the_picture_is_seen_at_its_place(parts):
    model, processor = parts
    picture = ramp(90, 60)
    changed = picture.copy()
    changed.paste((0, 0, 0), (80, 50, 90, 60))  # the lower right corner
    before, after = (strongest_words(model, processor, one).coefficients for one in (picture, changed))
    difference = (after - before).abs().sum(-1)  # (rows, columns)
    rows, columns = difference.shape
    row, column = divmod(difference.argmax().item(), columns)
    assert row >= rows * 2 // 3 and column >= columns * 2 // 3


def test_layers_are_read_at_the_patches_and_not_at_the_newlines(parts):
    model, processor = parts
    picture = ramp(90, 60)
    explanation = explain(model, processor, picture, num_layers=1)
    rows, columns = explanation.grid
    content = [{"type": "image", "image": picture}, {"type": "text", "text": ""}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    (last,) = model(**inputs, output_hidden_states=True).hidden_states[-1]  # (sequence, d)
    states = last[inputs["input_ids"][0] == processor.image_token_id][-rows * (columns + 1) :]
    states = states.unflatten(0, (rows, columns + 1))[:, :columns]  # (rows, columns, d)
    token_ids = model.model.vocabulary_head.token_ids
    expected = (states @ model.lm_head.weight[token_ids].T).softmax(-1)  # (rows, columns, V)
    view = explanation.views[-1]
    names = strongest_words(model, processor, picture).names
    for word, numbers in view.maps.items():
        torch.testing.assert_close(numbers, expected[..., names.index(word)], rtol=1e-3, atol=1e-6)


def test_a_photo_that_is_too_narrow_for_a_patch_is_refused(parts):
    with pytest.raises(ValueError, match="An image of 1 x 300 pixels has no patch of its own"):
        explain(*parts, ramp(1, 300))

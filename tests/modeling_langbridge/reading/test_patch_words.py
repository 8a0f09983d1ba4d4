# SPDX-License-Identifier: Apache-2.0
"""What the Space reads from a model, whatever its coefficients and its grid of patches, and the pictures of it."""

import pytest
import torch
from PIL import Image, ImageChops, ImageFont
from tiny_parts import make_image, make_tokenizer, save_vision_tower
from transformers import (
    AutoModel,
    BitImageProcessorPil,
    Dinov2WithRegistersConfig,
    MobileNetV2ImageProcessorPil,
)
from wordy_models import compose

from modeling_langbridge.reading.patch_words import (
    draw_frame,
    draw_heat,
    draw_words,
    find_regions,
    longest_run,
    name_words,
    strongest_words,
    write_on_patches,
)


@torch.no_grad()
def read_coefficients(model, processor, image: Image.Image) -> torch.Tensor:
    return model.get_image_coefficients(processor.image_processor(image, return_tensors="pt")["pixel_values"])[0]


def spell(model, processor, word: int) -> str:
    return processor.tokenizer.decode(model.model.vocabulary_head.token_ids[word]).strip()


@pytest.mark.parametrize("coefficient_activation", ["linear", "softmax", "gated_softmax"])
def test_the_strongest_words_of_a_patch_are_those_with_the_largest_coefficients(vision, text, coefficient_activation):
    model, processor = compose(vision, text, coefficient_activation=coefficient_activation)
    image = make_image()
    coefficients = read_coefficients(model, processor, image)  # (16, V)
    patches = strongest_words(model, processor, image, top=3).patches
    assert (len(patches), len(patches[0])) == (4, 4)
    for place, patch in enumerate(coefficients):
        ranked = sorted(range(len(patch)), key=lambda word: -abs(patch[word]))[:3]  # noqa: B023
        expected = [(spell(model, processor, word), pytest.approx(patch[word].item())) for word in ranked]
        assert patches[place // 4][place % 4] == expected


def test_a_grid_need_not_be_square(text, tmp_path):
    tower = AutoModel.from_pretrained(save_vision_tower("mobilenet_v2", tmp_path))
    image_processor = MobileNetV2ImageProcessorPil(size={"height": 64, "width": 96}, do_center_crop=False)
    model, processor = compose(tower, text, image_processor, coefficient_activation="softmax")
    words = strongest_words(model, processor, make_image())
    assert words.coefficients.shape[:2] == (2, 3)
    assert words.view.size == (96, 64)
    assert draw_words(words).size == (960, 640)
    torch.testing.assert_close(words.coefficients.flatten(0, 1), read_coefficients(model, processor, make_image()))


def test_registers_lie_on_no_patch(text):
    config = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_register_tokens=3
    )
    size = {"height": 32, "width": 32}
    image_processor = BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    model, processor = compose(AutoModel.from_config(config), text, image_processor)
    coefficients = read_coefficients(model, processor, make_image())  # (3 + 16, V)
    words = strongest_words(model, processor, make_image())
    torch.testing.assert_close(words.coefficients.flatten(0, 1), coefficients[3:])


def test_the_photos_words_are_those_that_the_language_model_is_handed(vision, text):
    model, processor = compose(vision, text, coefficient_activation="gated_softmax", words_per_image=5)
    pixel_values = processor.image_processor(make_image(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        handed = model.get_image_features(pixel_values).pooler_output[0]  # (5, d)
        embeddings = model.model.get_word_embeddings()  # (V, d)
    expected = [spell(model, processor, word) for word in torch.cdist(handed, embeddings).argmin(1).tolist()]
    assert [word for word, _ in strongest_words(model, processor, make_image()).photo] == expected


def test_an_adapter_without_words_is_named(vision, text):
    model, processor = compose(vision, text, adapter_type="mlp")
    with pytest.raises(ValueError, match="'mlp'"):
        strongest_words(model, processor, make_image())


def test_words_that_look_alike_get_names_of_their_own():
    tokenizer = make_tokenizer()
    (dog,), (bare,), (line,) = (tokenizer.encode(word) for word in (" dog", "b", "\n"))
    assert name_words(tokenizer, [[dog], [bare], tokenizer.encode(" b"), [line]]) == ["dog", "b", "' b'", r"'\n'"]
    assert name_words(tokenizer, [[dog], tokenizer.encode(" zb")]) == ["dog", "zb"]


def test_bytes_that_are_no_characters_get_names_of_their_own():
    tokenizer = make_tokenizer()
    words = [[byte] for byte in tokenizer.encode("é")]  # two, neither of which is a character
    assert name_words(tokenizer, words) == ["\ufffd", "'\ufffd'"]
    assert len(set(name_words(tokenizer, [[token] for token in range(len(tokenizer))]))) == len(tokenizer)


def test_a_heat_map_is_bright_where_the_word_is_said_and_blue_where_raw_coefficients_are_negative(vision, text):
    model, processor = compose(vision, text)
    words = strongest_words(model, processor, Image.new("RGB", (40, 40), "white"))
    name = words.names[7]
    coefficients = words.coefficients[..., 7]
    picture, width = draw_heat(words, name), words.patch_width
    for row in range(4):
        for column in range(4):
            red, _, blue = picture.getpixel(((column + 0.5) * width, (row + 0.5) * width))
            if abs(coefficients[row, column]) > 0.1 * coefficients.abs().max():
                assert (red > blue) == (coefficients[row, column] > 0)
    framed = draw_frame(picture.copy(), words, (1, 2))
    changed = [
        x // width + 4 * (y // width)
        for x in range(4 * width)
        for y in range(0, 4 * width, 7)
        if framed.getpixel((x, y)) != picture.getpixel((x, y))
    ]
    assert set(changed) == {1 * 4 + 2}


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_word_lies_on_its_own_patch(row, column):
    view = Image.new("RGB", (64, 32), "black")
    words = [["a", "b"], ["c", "d"]]
    plain = write_on_patches(view, words)
    words[row][column] = "snowboarding"
    left, top, right, bottom = ImageChops.difference(write_on_patches(view, words), plain).getbbox()
    width, height = plain.width // 2, plain.height // 2
    assert column * width <= left < right <= (column + 1) * width
    assert row * height <= top < bottom <= (row + 1) * height


def test_neighbours_of_one_word_are_a_region_and_others_of_it_another():
    words = [["sky", "sky", "dog"], ["dog", "sky", "dog"], ["dog", "dog", "sky"]]
    regions = [sorted(region) for region in find_regions(words)]
    assert sorted(regions) == [
        [(0, 0), (0, 1), (1, 1)],
        [(0, 2), (1, 2)],
        [(1, 0), (2, 0), (2, 1)],
        [(2, 2)],
    ]


def test_a_region_has_one_label_on_its_longest_row_and_an_outline():
    view = Image.new("RGB", (64, 64), "grey")
    words = [["sky", "sky", "sky", "a"], ["sky", "b", "c", "d"]]
    assert longest_run(find_regions(words)[0]) == (0, 0, 2)
    picture = write_on_patches(view, words)
    width = picture.width // 4
    blank = write_on_patches(view, [[" " if word == "sky" else word for word in row] for row in words])
    left, top, right, bottom = ImageChops.difference(picture, blank).getbbox()
    assert 0 < left < right < 3 * width and 0 < top < bottom < width
    assert left + right == pytest.approx(3 * width, abs=4)

    def is_lit(x: float, y: float) -> bool:
        return picture.getpixel((x, y)) != picture.getpixel((x + 3, y + 3))

    assert not is_lit(width, 3) and not is_lit(5, width)  # between two patches of the region
    assert is_lit(3 * width, 3) and is_lit(width + 5, width)


def test_the_longest_row_in_the_middle_has_the_label():
    assert longest_run([(row, column) for row in range(5) for column in range(2)]) == (2, 0, 1)


def test_a_larger_region_has_a_larger_label():
    def height(words) -> int:
        view = Image.new("RGB", (64, 64), "black")
        blank = write_on_patches(view, [[" " if word == "o" else word for word in row] for row in words])
        box = ImageChops.difference(write_on_patches(view, words), blank).getbbox()
        return box[3] - box[1]

    assert height([["o", "o", "o", "o"], ["a", "b", "c", "d"]]) > 1.5 * height(
        [["o", "a", "b", "c"], ["d", "e", "f", "g"]]
    )


def test_the_font_is_that_of_the_word():
    asked = []

    def load(word: str, size: float):
        asked.append(word)
        return ImageFont.load_default(size)

    write_on_patches(Image.new("RGB", (64, 32)), [["\u72d7", "dog"]], load_font=load)
    assert set(asked) == {"\u72d7", "dog"}

# SPDX-License-Identifier: Apache-2.0
"""Reads the words of each patch of a photo from a LangBridge model, and draws them.

This module needs only torch, transformers and PIL, so that it can be uploaded with a Space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image


PICTURE = 960  # minimum width of a picture, in pixels
SMALLEST_PATCH = 64  # in pixels, so that a word fits
NamedNumbers = list[tuple[str, float]]  # words with their numbers, the strongest first


@dataclass(frozen=True, eq=False)
class PatchWords:
    """The words of a photo, by patch and in total.

    Args:
        view (`PIL.Image.Image`): The photo as the vision tower sees it, cropped to its patches.
        names (`list[str]`): The V words, as [`name_words`] writes them.
        coefficients (`torch.Tensor` of shape `(rows, columns, V)`): Each patch's, float32 on the CPU.
        patches (`list[list[list[tuple[str, float]]]]`): For every row and column its strongest words with their
            coefficients, the strongest first; raw ones are ranked by magnitude.
        photo (`list[tuple[str, float]]`): The strongest words of all patches together, with their shares of the total.
            Where the model has `words_per_image`, exactly the words that the language model reads.
    """

    view: Image.Image
    names: list[str]
    coefficients: torch.Tensor
    patches: list[list[NamedNumbers]]
    photo: NamedNumbers

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of its patches."""
        return tuple(self.coefficients.shape[:2])

    @property
    def patch_width(self) -> int:
        """Width and height of a patch in a picture, in pixels."""
        return patch_width(self.grid)


@torch.no_grad()
def strongest_words(model: PreTrainedModel, processor: ProcessorMixin, image: Any, top: int = 5) -> PatchWords:
    """Reads the words of a photo with a model.

    Args:
        model (`LangBridgeForConditionalGeneration`): With an adapter made of words, whatever its activation.
        processor (`LangBridgeProcessor`): The model's.
        image (`PIL.Image.Image`, or what `processor.open_image` opens): The photo.
        top (`int`, *optional*, defaults to 5): Number of words per patch. The whole photo has `2 * top`, or the
            model's `words_per_image`.

    Returns:
        [`PatchWords`].

    Raises:
        `ValueError`: the adapter (mlp, linear) is not made of words.
    """
    image = processor.open_image(image)
    coefficients = model.get_image_coefficients(**load_pixels(model, processor, image))[0].float().cpu()  # (tokens, V)
    names = name_words(processor.tokenizer, model.model.get_word_ids())
    view, grid = crop_to_patches(processor, image)
    photo_words = strongest_of_photo(coefficients, names, model.config.words_per_image or 2 * top)
    coefficients = lay_on_grid(coefficients, grid)  # (rows, columns, V)
    words = rank_words(coefficients.abs(), top)  # (rows, columns, top)
    patches = list_patches(coefficients.gather(-1, words), words, names)
    return PatchWords(view=view, names=names, coefficients=coefficients, patches=patches, photo=photo_words)


def load_pixels(model: PreTrainedModel, processor: ProcessorMixin, image: Image.Image) -> BatchFeature:
    """The `pixel_values` of a photo, as and where the vision tower wants them, and its `image_sizes` for tiles."""
    inputs = processor.image_processor(image, return_tensors="pt")
    return inputs.to(model.model.vision_tower.device, model.model.vision_tower.dtype)


def strongest_of_photo(coefficients: torch.Tensor, names: list[str], number: int) -> NamedNumbers:
    """The strongest words of all patches together, with their shares of the total, of coefficients `(tokens, V)`."""
    # A coefficient is a word's probability times its patch's gate, so that their sums are what the model pools.
    total = coefficients.abs().sum(0)  # (V,)
    shares, words = (total / total.sum().clamp(min=1e-30)).topk(min(len(names), number))
    return [(names[word], share) for word, share in zip(words.tolist(), shares.tolist(), strict=True)]


def rank_words(numbers: torch.Tensor, top: int) -> torch.Tensor:
    """The places `(rows, columns, top)` of each patch's largest numbers `(rows, columns, V)`, the largest first."""
    return numbers.topk(min(numbers.shape[-1], top)).indices


def list_patches(numbers: torch.Tensor, words: torch.Tensor, names: list[str]) -> list[list[NamedNumbers]]:
    """For every row and column the words with their numbers, both `(rows, columns, top)`."""
    return [
        [[(names[word], number) for word, number in zip(*patch, strict=True)] for patch in zip(*row, strict=True)]
        for row in zip(words.tolist(), numbers.tolist(), strict=True)
    ]


def crop_to_patches(processor: ProcessorMixin, image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """A photo as the vision tower sees it, cropped to its patches, and their numbers of rows and columns.

    Raises:
        `ValueError`: the photo is so narrow that none of its tiles' patches lies on it.
    """
    unscaled = processor.image_processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")
    pixels = unscaled["pixel_values"][0]  # (3, height, width), or (tiles, 3, height, width)
    grid, whole = find_grid(processor, unscaled)
    size = processor.patch_size
    if "image_sizes" in unscaled:
        pixels = drop_margins(pixels[1:], size).unflatten(0, find_tiles(processor, unscaled))
        pixels = pixels.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # (3, height, width)
        top, left = (size * ((length - own) // 2) for length, own in zip(whole, grid, strict=True))
        pixels = pixels[:, top : top + grid[0] * size, left : left + grid[1] * size]
    pixels = drop_margins(pixels, size)
    return Image.fromarray(pixels.permute(1, 2, 0).clamp(0, 255).byte().numpy()), grid


def drop_margins(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Pixels `(..., height, width)` without what is less than a patch."""
    rows, columns = (length // size for length in pixels.shape[-2:])
    return pixels[..., : rows * size, : columns * size]


def find_tiles(processor: ProcessorMixin, inputs: BatchFeature) -> tuple[int, int]:
    """The rows and columns of the tiles of a photo, by its `pixel_values` and `image_sizes`."""
    resolutions, side = processor.image_processor.image_grid_pinpoints, inputs["pixel_values"].shape[-1]
    return get_anyres_image_grid_shape(inputs["image_sizes"][0].tolist(), resolutions, side)


def find_grid(processor: ProcessorMixin, inputs: BatchFeature) -> tuple[tuple[int, int], tuple[int, int]]:
    """The rows and columns of a photo's patches, and those that its tiles have with their padding.

    Args:
        processor (`LangBridgeProcessor`): It has made the inputs.
        inputs (`BatchFeature`): The `pixel_values` of one photo, with its `image_sizes` for tiles.

    Raises:
        `ValueError`: the photo is so narrow that none of its tiles' patches lies on it.
    """
    rows, columns = (length // processor.patch_size for length in inputs["pixel_values"].shape[-2:])
    if "image_sizes" not in inputs:
        return (rows, columns), (rows, columns)
    tiles = find_tiles(processor, inputs)
    height, width = inputs["image_sizes"][0].tolist()
    whole = tiles[0] * rows, tiles[1] * columns
    rows, columns = unpad_image(torch.empty(1, *whole), (height, width)).shape[1:]
    if not rows * columns:
        raise ValueError(f"An image of {width} x {height} pixels has no patch of its own: widen it.")
    return (rows, columns), whole


def lay_on_grid(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Reshapes values of visual tokens `(tokens, ...)` to `(rows, columns, ...)`."""
    # Registers and overviews, which come before the patches, have no place in the photo.
    return tokens[-grid[0] * grid[1] :].unflatten(0, grid)  # (rows, columns, ...)


def drop_newlines(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The values `(rows * columns, ...)` of the tiles' patches, of those of an image's tokens with their newlines."""
    rows, columns = grid
    return tokens[-rows * (columns + 1) :].unflatten(0, (rows, columns + 1))[:, :-1].flatten(0, 1)


def name_words(tokenizer: PreTrainedTokenizerBase, word_ids: list[list[int]]) -> list[str]:
    """Unique names for words, each given by the token ids of its pieces (`model.model.get_word_ids()`).

    A name is the word without the space before it. Where an earlier word already has that name, or the word is not
    printable, the name is its `repr`, with its index in the vocabulary where that is taken too.
    """
    names: dict[str, None] = {}  # a dict, unlike a set, keeps the order
    for surface in decode_words(tokenizer, word_ids):
        candidates = readable(surface), repr(surface), f"{surface!r} ({len(names)})"
        names[next(name for name in candidates if name not in names)] = None
    return list(names)


def decode_words(tokenizer: PreTrainedTokenizerBase, word_ids: list[list[int]]) -> list[str]:
    """The texts of words, each given by the token ids of its pieces, with the space before them."""
    # Decoded after another token, since some tokenizers drop a leading space.
    anchor = tokenizer.encode("a", add_special_tokens=False)
    start = len(tokenizer.decode(anchor, clean_up_tokenization_spaces=False))
    texts = tokenizer.batch_decode([anchor + word for word in word_ids], clean_up_tokenization_spaces=False)
    return [text[start:] for text in texts]


def readable(surface: str) -> str:
    """A word without the space before it, or its `repr` where it is not printable."""
    word = surface.strip()
    return word if word and word.isprintable() else repr(surface)


def find_regions(words: list[list[str]]) -> list[list[tuple[int, int]]]:
    """Neighbouring patches, given by row and column, that have the same word."""
    left = {(row, column): word for row, line in enumerate(words) for column, word in enumerate(line)}
    regions = []
    while left:
        place = next(iter(left))
        word = left.pop(place)
        region = [place]
        for row, column in region:  # grows meanwhile
            for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if left.get(place) == word:
                    del left[place]
                    region.append(place)
        regions.append(region)
    return regions


def longest_run(region: list[tuple[int, int]]) -> tuple[int, int, int]:
    """Row, first and last column of a region's longest piece of a row, the nearest to its middle."""
    cells, runs = set(region), []
    middle = sum(row for row, _ in region) / len(region)
    for row, first in region:
        if (row, first - 1) not in cells:
            last = first
            while (row, last + 1) in cells:
                last += 1
            runs.append((row, first, last))
    return max(runs, key=lambda run: (run[2] - run[1], -abs(run[0] - middle)))


LoadFont = Callable[[str, float], ImageFont.FreeTypeFont]  # the font for a word, at a size in pixels


def load_latin_font(word: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def draw_words(words: PatchWords, load_font: LoadFont = load_latin_font) -> Image.Image:
    """Writes the strongest words on the photo, smaller where their coefficients are smaller.

    Args:
        words ([`PatchWords`]): Or anything else with its `view` and `patches`.
        load_font (`Callable`, *optional*): As of [`write_on_patches`].
    """
    strongest = [[patch[0] for patch in row] for row in words.patches]
    largest = max(abs(coefficient) for row in strongest for _, coefficient in row) or 1
    return write_on_patches(
        words.view,
        [[word for word, _ in row] for row in strongest],
        [[abs(coefficient) / largest for _, coefficient in row] for row in strongest],
        load_font,
    )


def write_on_patches(
    view: Image.Image,
    words: list[list[str]],
    strengths: list[list[float]] | None = None,
    load_font: LoadFont = load_latin_font,
) -> Image.Image:
    """Writes words on the patches of a photo, smaller where their strengths are smaller.

    Neighbouring patches of one word are one region, with an outline and one label. The picture is at least 960 pixels
    wide.

    Args:
        view (`PIL.Image.Image`): The photo, cropped to its patches.
        words (`list[list[str]]`): One word for every row and column.
        strengths (`list[list[float]]`, *optional*): From 0 to 1, for every row and column; 1 when left out.
        load_font (`Callable`, *optional*): Gives the font for a word and a size in pixels. The default, PIL's own, has
            Latin letters only.
    """
    grid = len(words), len(words[0])
    strengths = strengths or [[1.0] * grid[1]] * grid[0]
    picture = ImageEnhance.Brightness(enlarge(view, grid)).enhance(0.75)
    draw = ImageDraw.Draw(picture, "RGBA")
    width = patch_width(grid)
    for region in find_regions(words):
        draw_outline(draw, region, width)
        row, first, last = longest_run(region)
        strength = max(strengths[y][x] for y, x in region)
        size = width * (0.17 + 0.09 * strength) * min(3, len(region) ** 0.5)
        draw.text(
            ((first + last + 1) / 2 * width, (row + 0.5) * width),
            words[row][first],
            fill="white",
            font=fit(words[row][first], (last + 1 - first) * width, size, load_font),
            anchor="mm",
            stroke_width=max(1, width // 50),
            stroke_fill=(0, 0, 0, 190),
        )
    return picture


def draw_outline(draw: ImageDraw.ImageDraw, region: list[tuple[int, int]], width: int) -> None:
    """Draws the sides of a region's patches that are not between two of them."""
    cells = set(region)
    for y, x in region:
        left, top, right, bottom = x * width, y * width, (x + 1) * width - 1, (y + 1) * width - 1
        sides = {
            (y - 1, x): (left, top, right, top),
            (y + 1, x): (left, bottom, right, bottom),
            (y, x - 1): (left, top, left, bottom),
            (y, x + 1): (right, top, right, bottom),
        }
        for neighbour, side in sides.items():
            if neighbour not in cells:
                draw.line(side, fill=(255, 255, 255, 60))


def draw_heat(words: PatchWords, word: str) -> Image.Image:
    """Highlights the patches of a word by its coefficient: orange where it is positive, blue where negative."""
    coefficients = words.coefficients[..., words.names.index(word)]  # (rows, columns)
    strength = coefficients / coefficients.abs().max().clamp(min=1e-12)
    photo = enlarge(words.view, words.grid)
    picture = ImageEnhance.Brightness(photo.convert("L").convert("RGB")).enhance(0.35)
    for sign, tint in ((1, "orange"), (-1, "blue")):
        lit = Image.blend(photo, Image.new("RGB", photo.size, tint), 0.2)
        mask = Image.fromarray(((sign * strength).clamp(min=0) * 255).byte().numpy())
        picture.paste(lit, mask=mask.resize(photo.size, Image.Resampling.NEAREST))
    return picture


def draw_frame(picture: Image.Image, words: PatchWords, patch: tuple[int, int]) -> Image.Image:
    """Frames a patch, given by its row and column, in a picture from [`draw_words`] or [`draw_heat`]."""
    row, column = (place * words.patch_width for place in patch)
    frame = (column, row, column + words.patch_width - 1, row + words.patch_width - 1)
    ImageDraw.Draw(picture).rectangle(frame, outline="orange", width=5)
    return picture


def enlarge(view: Image.Image, grid: tuple[int, int]) -> Image.Image:
    rows, columns = grid
    width = patch_width(grid)
    return view.resize((columns * width, rows * width), Image.Resampling.LANCZOS)


def patch_width(grid: tuple[int, int]) -> int:
    """Width and height of a patch in a picture, in pixels."""
    return max(SMALLEST_PATCH, PICTURE // grid[1])


def fit(word: str, width: int, size: float, load_font: LoadFont) -> ImageFont.FreeTypeFont:
    """The word's font at a size in pixels, or smaller where the word would be wider than its patches."""
    length = load_font(word, size).getlength(word)
    return load_font(word, min(size, size * 0.92 * width / length))

# SPDX-License-Identifier: Apache-2.0
"""What visual tokens say at a stage of training: the words of the language model that are nearest to them.

The LangBridge paper (arXiv 2503.19404, section 3) shows them for an MLP after 100, 1,000 and 2,000 steps and after
finetuning.
"""

from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..vocabulary_head import look_up
from .explaining import MAPS, Explanation, View, explain
from .patch_words import (
    crop_to_patches,
    decode_words,
    drop_newlines,
    lay_on_grid,
    list_patches,
    load_pixels,
    name_words,
)


TOKENS_AT_ONCE = 64  # times the language model's words: 67 MB of cosines for Gemma's 262,144
NEAREST = (
    "Cosines of the visual token with the language model's own embeddings of {:,} words, as in the LangBridge paper's "
    "study of training: which words are near, not what the token is made of. "
    "The photo's words are nearest to so many of its patches."
)


def choose_tokens(tokenizer: PreTrainedTokenizerBase, all_tokens: bool = False) -> dict[str, int]:
    """
    The tokens that visual tokens are compared with, each by its name.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The language model's.
        all_tokens (`bool`, *optional*, defaults to `False`):
            Pieces of words, numbers, signs and scripts without spaces too, not only letters after a space.

    Returns:
        `dict[str, int]`: Token ids, whole words first. There are no special tokens.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    surfaces = decode_words(tokenizer, [[token] for token in ids])
    is_whole = [surface.startswith(" ") and surface[1:].isalpha() for surface in surfaces]
    chosen = [token for token, whole in zip(ids, is_whole, strict=True) if whole]
    if all_tokens:  # behind the words, which then have the plain names
        chosen += [token for token, whole in zip(ids, is_whole, strict=True) if not whole]
    return dict(zip(name_words(tokenizer, [[token] for token in chosen]), chosen, strict=True))


@torch.no_grad()
def explain_stage(
    model: PreTrainedModel, processor: ProcessorMixin, image: Any, tokens: dict[str, int], top: int = 5
) -> Explanation:
    """
    Explains what a model's visual tokens say by the words that are nearest to them, whatever its adapter.

    Args:
        model (`LangBridgeForConditionalGeneration` or `LlavaForConditionalGeneration`): The model at some stage.
        processor (`LangBridgeProcessor`): The model's.
        image (`PIL.Image.Image`, or what `processor.open_image` opens): The photo.
        tokens (`dict[str, int]`): What [`choose_tokens`] returns for its tokenizer.
        top (`int`, *optional*, defaults to 5): Number of words per patch.

    Returns:
        [`Explanation`], whose first view is `"cosine"`, among all of `tokens`. An adapter made of words has its
        coefficients as the second view; where it has `words_per_image` they are the only one.
    """
    image = processor.open_image(image)
    coefficients = None
    if isinstance(model, LangBridgeForConditionalGeneration) and model.config.adapter_type == "langbridge":
        coefficients = explain(model, processor, image, top=top, num_layers=0)
        coefficients = replace(coefficients, views=coefficients.views[:1])
        if model.config.words_per_image is not None:
            return coefficients
    pixels = load_pixels(model, processor, image)
    visual_tokens = model.get_image_features(**pixels).pooler_output[0].float()  # (tokens, d)
    if not visual_tokens.isfinite().all():
        raise ValueError("The model's visual tokens of this image are not finite: its weights are damaged.")
    view, grid = crop_to_patches(processor, image)
    if "image_sizes" in pixels:
        visual_tokens = drop_newlines(visual_tokens, grid)
    nearest = find_nearest(model, visual_tokens, tokens, grid, top)
    firsts = [patch[0][0] for row in nearest.patches for patch in row]
    shares = {word: firsts.count(word) / len(firsts) for word in nearest.maps}
    photo = list(shares.items())[: 2 * top]
    if coefficients is None:
        return Explanation(
            view, [nearest], photo, entropy=None, gate=None, energy=None, is_identifiable=True, notes=[]
        )
    return replace(coefficients, views=[nearest, *coefficients.views], photo=photo)


def find_nearest(
    model: PreTrainedModel, visual_tokens: torch.Tensor, tokens: dict[str, int], grid: tuple[int, int], top: int
) -> View:
    """The view of a photo's visual tokens `(tokens, d)` by their cosines with the embeddings of words."""
    names = list(tokens)
    ids = torch.tensor(list(tokens.values()), device=visual_tokens.device)
    embeddings = look_up(model.get_input_embeddings(), ids).float()  # (words, d)
    lengths = embeddings.norm(dim=-1).clamp(min=1e-12)  # (words,)
    directions = F.normalize(visual_tokens, dim=-1)
    parts = [(part @ embeddings.T / lengths).topk(min(top, len(names))) for part in directions.split(TOKENS_AT_ONCE)]
    numbers, words = (lay_on_grid(torch.cat(part).cpu(), grid) for part in zip(*parts, strict=True))
    first = words[..., 0].flatten().bincount(minlength=len(names))  # (words,)
    common = first.argsort(descending=True)[: min(MAPS, int(first.count_nonzero()))]
    maps = directions @ (F.normalize(embeddings[common], dim=-1)).T  # (tokens, maps)
    maps = lay_on_grid(maps.cpu(), grid).permute(2, 0, 1)  # (maps, rows, columns)
    return View(
        name="cosine",
        about=NEAREST.format(len(names)),
        is_share=False,
        patches=list_patches(numbers, words, names),
        maps={names[word]: numbers.clone() for word, numbers in zip(common.tolist(), maps, strict=True)},
    )

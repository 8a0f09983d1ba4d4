# SPDX-License-Identifier: Apache-2.0
"""Explains what a LangBridge sees in a photo: the words of each patch, the patches of each word, and what they leave
out."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F
from transformers import PreTrainedModel, ProcessorMixin

from .logit_lens import lacks_positions, read_layers
from .patch_words import (
    NamedNumbers,
    crop_to_patches,
    drop_newlines,
    lay_on_grid,
    list_patches,
    load_pixels,
    name_words,
    rank_words,
    strongest_of_photo,
)


MAPS = 100  # words of a view whose maps are kept
PLACES = 5  # patches listed for each word of the photo
EXACT = "The adapter's own coefficients, exactly as it computes them"
VIEWS = {
    "raw": f"{EXACT}: raw numbers with a sign, ranked by magnitude.",
    "distribution": f"{EXACT}: the share of each word.",
    "cosine": "Cosines of the visual token with the words' embeddings, as the official LangBridge tool shows them: "
    "which words are near, not what the token is made of.",
    "layer": "Logit lens: the language model's own final norm and output layer, applied to its state at the patch "
    "after this layer. Probabilities among the shared words.",
}


@dataclass(frozen=True, eq=False)
class View:
    """One way to put patches into words.

    Args:
        name (`str`): `"coefficients"`, `"cosine"` or, say, `"layer 6 of 24"`.
        about (`str`): What the numbers are, in a sentence or two.
        is_share (`bool`): Whether they are shares or probabilities, from 0 to 1.
        patches (`list[list[list[tuple[str, float]]]]`): For every row and column the strongest words with their
            numbers, the strongest first.
        maps (`dict[str, torch.Tensor]`): A word's numbers `(rows, columns)`. It holds the words that were asked for,
            the photo's, and those that are the first of the most patches, 100 in all or as many as were asked for.
    """

    name: str
    about: str
    is_share: bool
    patches: list[list[NamedNumbers]]
    maps: dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What [`explain`] finds in a photo.

    Args:
        view (`PIL.Image.Image`): The photo as the vision tower sees it, cropped to its patches.
        views (`list[View]`): The coefficients, then what else can be said of this model.
        photo (`list[tuple[str, float]]`): The strongest words of all patches together, with their shares of all
            coefficients' magnitudes.
        entropy (`torch.Tensor` of shape `(rows, columns)`, *optional*):
            Of each patch's coefficients, where there are any, in nats: of their magnitudes divided by their sum, which
            for distributions is the distribution.
        gate (`torch.Tensor` of shape `(rows, columns)`, *optional*): How much each patch says, for gated coefficients.
        energy (`torch.Tensor` of shape `(rows, columns)`, *optional*):
            The share of each visual token's energy that its listed coefficients carry. With x the token that the
            language model reads and s the sum of the listed words' embeddings times their coefficients, it is
            `‖p‖² / ‖x‖²`, where p is the projection of s on x, or 0 where s points away from x. All words together
            carry 1, where no linear remainder is added; raw coefficients that cancel out can carry more than 1.
        is_identifiable (`bool`): Whether no other coefficients give the same visual tokens. Raw ones of more words
            than the language model has dimensions are one solution of many.
        notes (`list[str]`): What must be known to read the numbers.
    """

    view: Image.Image
    views: list[View]
    photo: NamedNumbers
    entropy: torch.Tensor | None
    gate: torch.Tensor | None
    energy: torch.Tensor | None
    is_identifiable: bool
    notes: list[str]

    @property
    def patches(self) -> list[list[NamedNumbers]]:
        """The words of each patch in the first view, which is that of the coefficients where there are any."""
        return self.views[0].patches

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of its patches."""
        return len(self.patches), len(self.patches[0])

    def places(self, word: str) -> list[tuple[int, int]]:
        """The rows and columns of the few patches where a word of the photo is strongest, the strongest first."""
        strengths = self.views[0].maps[word].abs()
        columns = strengths.shape[1]
        strongest = strengths.flatten().topk(min(PLACES, strengths.numel())).indices.tolist()
        return [divmod(place, columns) for place in strongest if strengths.flatten()[place] > 0]

    def to_dict(self, write_map: Callable[[torch.Tensor], Any] | None = None) -> dict[str, Any]:
        """Everything but the photo, for JSON, with numbers of four digits. `write_map` makes JSON of a word's numbers
        `(rows, columns)`, which are lists of rows without it."""
        return {
            "grid": list(self.grid),
            "photo": [
                {"word": word, "share": rounded(share), "places": self.places(word)} for word, share in self.photo
            ],
            "notes": self.notes,
            "entropy": None if self.entropy is None else rounded(self.entropy.tolist()),
            "gate": None if self.gate is None else rounded(self.gate.tolist()),
            "energy": None if self.energy is None else rounded(self.energy.tolist()),
            "views": [
                {
                    "name": view.name,
                    "about": view.about,
                    "is_share": view.is_share,
                    "patches": rounded(view.patches),
                    "maps": {word: (write_map or list_rows)(numbers) for word, numbers in view.maps.items()},
                }
                for view in self.views
            ],
        }


@torch.no_grad()
def explain(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    image: Any,
    top: int = 5,
    words: Sequence[str] = (),
    num_layers: int = 4,
    has_language_model: bool = True,
) -> Explanation:
    """
    Explains what a model sees in a photo, in words.

    One image is read at a time, and at most its tokens times V numbers are in memory for it; what is returned holds
    the listed words alone.

    Args:
        model (`LangBridgeForConditionalGeneration`):
            With an adapter made of words, whatever its activation. [`~modeling_langbridge.lift`] makes one of a stock
            LLaVA.
        processor (`LangBridgeProcessor`): The model's.
        image (`PIL.Image.Image`, or what `processor.open_image` opens): The photo.
        top (`int`, *optional*, defaults to 5):
            Number of words per patch. The whole photo has `2 * top`, or the model's `words_per_image`.
        words (`Sequence[str]`, *optional*): Words whose maps are wanted, however weak they are.
        num_layers (`int`, *optional*, defaults to 4): Layers of the language model to look into, evenly spread.
        has_language_model (`bool`, *optional*, defaults to `True`):
            `False` for an adapter that was joined without one: its placeholder knows nothing of words.

    Returns:
        [`Explanation`].

    Raises:
        `ValueError`: the adapter (mlp, linear) is not made of words, a word is not in its vocabulary, `top` is less
        than 1 or `num_layers` less than 0, the image cannot be opened, or the coefficients are not finite.
    """
    model.config.require_words("`explain`")
    if top < 1:
        raise ValueError(f"`top` is {top}: give the number of words to list per patch, at least 1.")
    if num_layers < 0:
        raise ValueError(f"`num_layers` is {num_layers}: give a number of layers, 0 for none.")
    bridge = model.model
    is_raw = model.config.coefficient_activation == "linear"
    names = name_words(processor.tokenizer, bridge.get_word_ids())
    asked = [find_word(word, names) for word in words]
    image = processor.open_image(image)
    pixels = load_pixels(model, processor, image)
    features = bridge.get_patch_features(**pixels)[0][None]  # (1, tokens, d_v)
    hidden_states = bridge.multi_modal_projector(features)  # (1, tokens, H)
    coefficients = bridge.vocabulary_head(hidden_states)[0].float().cpu()  # (tokens, V)
    magnitudes = coefficients.abs() if is_raw else coefficients
    totals = magnitudes.sum(-1, keepdim=True)  # (tokens, 1)
    if not totals.isfinite().all():
        raise ValueError("The model's coefficients of this image are not finite: its weights are damaged.")
    photo = strongest_of_photo(coefficients, names, model.config.words_per_image or 2 * top)
    view, grid = crop_to_patches(processor, image)
    kept = [*asked, *(names.index(word) for word, _ in photo)]

    def look(name: str, about: str, numbers: torch.Tensor, is_share: bool) -> View:
        numbers = lay_on_grid(numbers, grid)  # (rows, columns, V)
        strongest = rank_words(numbers.abs() if about == VIEWS["raw"] else numbers, top)  # (rows, columns, top)
        first = strongest[..., 0].flatten().bincount(minlength=len(names))  # (V,)
        common = [word for word in first.argsort(descending=True).tolist()[:MAPS] if first[word]]
        mapped = list(dict.fromkeys([*kept, *common]))[: max(MAPS, len(kept))]
        maps = {names[word]: numbers[..., word].clone() for word in mapped}  # a view would keep all numbers
        return View(name, about, is_share, list_patches(numbers.gather(-1, strongest), strongest, names), maps)

    views = [look("coefficients", VIEWS["raw" if is_raw else "distribution"], coefficients, not is_raw)]
    entropy = torch.special.entr(magnitudes / totals.clamp(min=1e-30)).sum(-1)  # (tokens,)
    is_gated = model.config.coefficient_activation == "gated_softmax"
    gate = bridge.vocabulary_head.get_gate(hidden_states)[0, :, 0].float().cpu() if is_gated else None  # (tokens,)
    energy = too_short = None
    if has_language_model and model.config.words_per_image is None:
        visual_tokens = bridge.adapt(features)[0]  # (tokens, d)
        embeddings = bridge.get_word_embeddings()  # (V, d)
        energy = energy_share(coefficients, embeddings, visual_tokens, top)  # (tokens,)
        views.append(look("cosine", VIEWS["cosine"], cosines(visual_tokens, embeddings), False))
        # Checked before the language model runs, whose own forward would end with an IndexError.
        too_short = lacks_positions(model, processor, image) if num_layers else None
        num_read, has_newlines = 0 if too_short else num_layers, "image_sizes" in pixels
        tokens = visual_tokens
        if has_newlines and num_read:
            tokens = bridge.get_image_features(**pixels).pooler_output[0]
        for number, probabilities in read_layers(model, processor, image, tokens, num_read):
            total = model.config.text_config.num_hidden_layers
            if has_newlines:
                probabilities = drop_newlines(probabilities, grid)
            views.append(look(f"layer {number} of {total}", VIEWS["layer"], probabilities, True))
    fits = has_language_model and model.config.bridge_vocab_size <= model.config.text_config.hidden_size
    is_identifiable = fits or not is_raw
    return Explanation(
        view=view,
        views=views,
        photo=photo,
        entropy=lay_on_grid(entropy, grid),
        gate=None if gate is None else lay_on_grid(gate, grid),
        energy=None if energy is None else lay_on_grid(energy, grid),
        is_identifiable=is_identifiable,
        notes=[*take_notes(model, has_language_model, is_identifiable), *filter(None, [too_short])],
    )


def find_word(word: str, names: list[str]) -> int:
    """The place of a word in the vocabulary; `ValueError` with the nearest ones where it is not there."""
    if word in names:
        return names.index(word)
    near = difflib.get_close_matches(word, names, cutoff=0)
    raise ValueError(f"“{word}” is not one of the adapter's {len(names):,} words: the nearest are {', '.join(near)}.")


def energy_share(
    coefficients: torch.Tensor, embeddings: torch.Tensor, visual_tokens: torch.Tensor, top: int
) -> torch.Tensor:
    """The share `(tokens,)` of each visual token's energy that its `top` coefficients carry, see [`Explanation`]."""
    words = coefficients.abs().topk(min(coefficients.shape[-1], top)).indices  # (tokens, top)
    listed = coefficients.gather(-1, words)[:, None] @ embeddings.float().cpu()[words]  # (tokens, 1, d)
    visual_tokens = visual_tokens.float().cpu()
    along = (listed[:, 0] * visual_tokens).sum(-1) / visual_tokens.square().sum(-1).clamp(min=1e-30)  # (tokens,)
    return along.clamp(min=0).square()


def cosines(visual_tokens: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """The cosine of each visual token `(tokens, d)` with each word's embedding `(V, d)`: `(tokens, V)` on the CPU."""
    return (F.normalize(visual_tokens.float(), dim=-1) @ F.normalize(embeddings.float(), dim=-1).T).cpu()


def take_notes(model: PreTrainedModel, has_language_model: bool, is_identifiable: bool) -> list[str]:
    """What must be known to read a model's numbers, a sentence or two each."""
    config, notes = model.config, []
    num_words, width = config.bridge_vocab_size, config.text_config.hidden_size
    if not has_language_model:
        notes.append(
            "An adapter alone: without a language model the words have no embeddings, so there are no cosines, no "
            "shares of energy and no layers."
        )
    elif config.words_per_image is not None:
        notes.append(
            f"The language model reads the photo's {config.words_per_image} strongest words and no patches, so there "
            "are no cosines, no shares of energy and no layers."
        )
    if not is_identifiable:
        number = f"{num_words:,} words, and {f'only {width:,}' if has_language_model else 'mostly fewer'} dimensions"
        notes.append(
            f"The coefficients are not identifiable: there are {number} in the language model, so many other "
            "coefficients give exactly the same visual token. A large one does not prove that the word is seen."
        )
    if config.linear_remainder:
        notes.append("A linear remainder adds to every visual token what the words leave out.")
    missing = model.model.vocabulary_head.missing_words()
    if missing is not None:
        notes.append(f"{int(missing.sum()):,} words are left out: the language model has no single token for them.")
    return notes


def list_rows(numbers: torch.Tensor) -> list[list[float]]:
    return rounded(numbers.tolist())


def rounded(numbers: Any) -> Any:
    """The same, with numbers of four digits, however they are nested in lists and tuples."""
    if isinstance(numbers, (list, tuple)):
        return [rounded(number) for number in numbers]
    return float(f"{numbers:.4g}") if isinstance(numbers, float) else numbers

# SPDX-License-Identifier: Apache-2.0
"""Converts a checkpoint of the published LangBridge code into a model of this package with the same outputs.

The original is LLaVA-1.5, or LLaVA-NeXT, with another projector. For the features v of an image's patches it computes

    c = W3 (W2 gelu(W1 v + b1) + b2) + b3    the layers 0, 2 and 3 of `model.mm_projector`
    x = c M                                  M (V, d): the file `mm_vocab_matrix`, which no checkpoint holds

M is a copy of the word embeddings from before the training; a model of this package reads the current ones, E. Where
training has changed them, the head is corrected so that its coefficients c' give the same visual tokens: c' E = c M.

In LLaVA-NeXT's tree the newline is a visual token t `(d,)` of its own. Here it is made of words: t = E^T (W3 n + b3).
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    GenerationConfig,
    LlavaImageProcessorPil,
)

from ..adapter.word_space import invert_words
from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor, find_vision_config, load_vision_tower
from ..utils.files import first_line
from ..vocabulary.shared_vocabulary import SharedVocabulary
from ..vocabulary_head import LangBridgeVocabularyHead
from .original_checkpoint import (
    LANGUAGE_MODELS,
    read_config,
    read_matrix,
    read_resolutions,
    read_text_config,
    read_vocabulary,
    read_weights,
    reads_tiles,
)
from .variants import SINGLE_IMAGES, TILES


LAYERS = {"0": "multi_modal_projector.linear_1", "2": "multi_modal_projector.linear_2", "3": "vocabulary_head"}


class EmbeddingShift(NamedTuple):
    """How far the word embeddings E `(V, d)` have moved from the matrix M, and the error of the corrected head.

    Args:
        distance (`float`): `|E - M| / |M|`; 0 where M rounds to E, and the head is unchanged.
        rank (`int`): How many of the d dimensions the words span; d where the head is unchanged.
        width (`int`): d.
        error (`float`): Relative error of the map from the projector's output to visual tokens, with rounded weights.
    """

    distance: float
    rank: int
    width: int
    error: float

    def __str__(self) -> str:
        if self.distance == 0:
            return "The vocabulary matrix holds the language model's own embeddings: the head was copied unchanged."
        return (
            f"The words' embeddings have moved by {self.distance:.2%} since the vocabulary matrix was taken: the head "
            f"was corrected, so that visual tokens differ from the original's by a relative error of {self.error:.1e} "
            f"(the words span {self.rank} of the {self.width} dimensions)."
        )


class ConvertedLangBridge(NamedTuple):
    """What [`convert_langbridge`] returns.

    Args:
        model (`LangBridgeForConditionalGeneration`): The model; a LangBridge-NeXT of the LLaVA-NeXT tree.
        processor (`LangBridgeProcessor`): Its processor.
        shift ([`EmbeddingShift`], *optional*): How the head was corrected; `None` where no matrix was given.
        unnamed (`list[str]`): Spellings of the words that no shared vocabulary can hold, such as special tokens.
        newline_error (`float`, *optional*): Relative error of the newline's visual token, in a LangBridge-NeXT.
    """

    model: LangBridgeForConditionalGeneration
    processor: LangBridgeProcessor
    shift: EmbeddingShift | None
    unnamed: list[str]
    newline_error: float | None


@torch.no_grad()
def convert_langbridge(
    folder: str | Path,
    vocabulary: str | Path,
    vocab_matrix: str | Path | None = None,
    language_model: str | None = None,
    vision_tower: str | None = None,
) -> ConvertedLangBridge:
    """
    Builds a LangBridge with the visual tokens and the logits of a checkpoint of the published code.

    Parts that the checkpoint does not hold (a frozen vision tower; after the first stage, the language model) are
    loaded from the places that its `config.json` names. No code in `.bin` and `.pt` files is run.

    Args:
        folder (`str` or `Path`):
            The checkpoint: `config.json` and the weights, as safetensors or `.bin`, in one file or in shards, or the
            projector's alone (`mm_projector.bin`).
        vocabulary (`str` or `Path`):
            The JSON file of the words, from spelling to token id, of which the checkpoint uses the first V.
        vocab_matrix (`str` or `Path`, *optional*):
            The file of M `(V, d)` that training read as `mm_vocab_matrix`. When left out, the language model's
            embeddings are used, which is correct where only the projector was trained.
        language_model (`str`, *optional*):
            Folder or Hub id of the language model before training, for the tokenizer and chat template, and for the
            weights where the checkpoint has none. When left out, the checkpoint's own tokenizer is used where it has
            one, and `_name_or_path` in its `config.json` names the rest.
        vision_tower (`str`, *optional*):
            Folder or Hub id of the CLIP tower. The one that `mm_vision_tower` names when left out.

    Returns:
        [`ConvertedLangBridge`], its model in eval mode and in the language model's dtype.

    Raises:
        `FileNotFoundError`: a file is missing.
        `ValueError`: a file is damaged or does not fit the others, or the checkpoint has an unsupported architecture.

    Source: Liao et al., "LangBridge", arXiv 2503.19404, and its published code, github.com/CurryX-001/LangBridge.
    """
    folder = Path(folder)
    config = read_config(folder / "config.json")
    text_config = read_text_config(config)
    base, tower = language_model or config.get("_name_or_path"), vision_tower or config.get("mm_vision_tower")
    has_tokenizer = language_model is None and (folder / "tokenizer_config.json").is_file()
    tokenizer = load(AutoTokenizer, folder if has_tokenizer else base, "--language_model", config=text_config)
    words = read_vocabulary(Path(vocabulary), tokenizer, config["mm_vocab_size"])
    vision_config = find_vision_config(load(AutoConfig, tower, "--vision_tower"))
    if vision_config.model_type != "clip_vision_model":
        raise ValueError(f"{tower} is a {vision_config.model_type}, but the original reads CLIP: give --vision_tower.")
    weights = read_weights(folder, config, vision_config, text_config)
    matrix = None if vocab_matrix is None else read_matrix(Path(vocab_matrix), len(words), text_config.hidden_size)

    image_processor = load(AutoImageProcessor, tower, "--vision_tower")
    variant = TILES if reads_tiles(config) else SINGLE_IMAGES
    tiles = {"image_grid_pinpoints": read_resolutions(config, folder / "config.json")} if variant.is_next else {}
    if config.get("image_aspect_ratio") == "pad":
        image_processor = LlavaImageProcessorPil.from_dict({**image_processor.to_dict(), "do_pad": True})
    if weights.vision_tower:
        vision = CLIPVisionModel.from_pretrained(None, config=vision_config, state_dict=weights.vision_tower)
    else:
        vision = load_vision_tower(tower)
    if weights.language_model:
        text = LANGUAGE_MODELS[config["model_type"]].from_pretrained(
            None,
            config=text_config,
            state_dict=weights.language_model,
            dtype=weights.language_model["model.embed_tokens.weight"].dtype,
        )
    else:
        text = load(AutoModelForCausalLM, base, "--language_model")
    processor = variant.processor.from_vision_text_pretrained(vision, text, image_processor, tokenizer, **tiles)
    model = variant.model.from_vision_text_pretrained(
        vision,
        text,
        list(words.values()),
        processor,
        projector_hidden_size=config["mlp_hidden_size"],
        projector_hidden_act="gelu",
        coefficient_activation="linear",
        vision_feature_layer=config["mm_vision_select_layer"],
    )
    if weights.language_model and (folder / "generation_config.json").is_file():
        settings = load(GenerationConfig, folder, "--model")
        model.generation_config = processor.complete_generation_config(settings)
    for layer, place in LAYERS.items():
        module = model.model.get_submodule(place)
        module.weight.copy_(weights.projector[f"{layer}.weight"])
        module.bias.copy_(weights.projector[f"{layer}.bias"])
    shift = None
    if matrix is not None:
        embeddings = model.model.get_word_embeddings()
        check_order(matrix, embeddings, list(words), f"{vocab_matrix} and {vocabulary}")
        shift = correct_head(model.model.vocabulary_head, matrix, embeddings)
    newline_error = set_newline(model, weights.newline["newline"]) if variant.is_next else None
    nameable = set(SharedVocabulary.build([tokenizer], []).token_ids(tokenizer))
    unnamed = [word for word, token_id in words.items() if token_id not in nameable]
    return ConvertedLangBridge(model, processor, shift, unnamed, newline_error)


def load(auto_class, source: str | Path | None, flag: str, **options):
    if source is None:
        raise ValueError(f"The checkpoint's config.json does not name the {flag} of its training: give it.")
    try:
        return auto_class.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{auto_class.__name__} cannot read {source} ({first_line(error)}): give a folder or Hub id as {flag}."
        ) from error


def check_order(matrix: torch.Tensor, embeddings: torch.Tensor, words: list[str], files: str) -> None:
    """Raises `ValueError` where the rows of a matrix `(V, d)` are in another order than the words.

    At most 1 % of the rows may differ by more than 60 degrees from the word embeddings `(V, d)`, relative to their
    means.
    """
    rows, live = (tensor.double() - tensor.double().mean(0) for tensor in (matrix, embeddings))  # (V, d)
    astray = (F.cosine_similarity(rows, live) < 0.5).nonzero().flatten().tolist()
    if len(astray) > len(words) // 100:
        some = ", ".join(repr(words[index]) for index in astray[:3])
        raise ValueError(
            f"{files} do not fit together: {len(astray)} of {len(words)} rows are far from their words' embeddings, "
            f"like those of {some}: the words are in another order, or another language model's."
        )


def correct_head(head: LangBridgeVocabularyHead, matrix: torch.Tensor, embeddings: torch.Tensor) -> EmbeddingShift:
    """
    Applies the smallest change to the head after which its visual tokens with E are those that it had with M.

    W' = W + E⁺ᵀ (M - E)ᵀ W, for the weight and likewise the bias, so that W'ᵀ E = Wᵀ E + Wᵀ (M - E) E⁺E. This is Wᵀ M
    where the words span all d dimensions, and elsewhere its projection onto their span.

    Args:
        head (`LangBridgeVocabularyHead`): Changed in place, unless M rounds to E.
        matrix (`torch.Tensor` of shape `(V, d)`): M, the word embeddings that the head was trained with.
        embeddings (`torch.Tensor` of shape `(V, d)`): E, the word embeddings of the language model.

    Returns:
        [`EmbeddingShift`].
    """
    width = embeddings.shape[1]
    if torch.equal(matrix.to(embeddings.dtype), embeddings):
        return EmbeddingShift(0.0, width, width, 0.0)
    W = torch.cat([head.weight, head.bias[:, None]], dim=1).double()  # (V, H + 1)
    E, M = embeddings.double(), matrix.double()  # (V, d)
    wanted = M.T @ W  # (d, H + 1)
    inverse, rank = invert_words(embeddings)  # (V, d)
    W += inverse @ (wanted - E.T @ W)
    head.weight.copy_(W[:, :-1])
    head.bias.copy_(W[:, -1])
    made = E.T @ torch.cat([head.weight, head.bias[:, None]], dim=1).double()  # (d, H + 1)
    distance, error = ((E - M).norm() / M.norm()).item(), ((made - wanted).norm() / wanted.norm()).item()
    return EmbeddingShift(distance, rank, width, error)


def set_newline(model: LangBridgeForConditionalGeneration, token: torch.Tensor) -> float:
    """
    Sets a LangBridge-NeXT's newline to the shortest n whose visual token, E^T (W3 n + b3), is nearest to a given one.

    Args:
        model (`LangBridgeNextForConditionalGeneration`): Its projector and its head are not changed.
        token (`torch.Tensor` of shape `(d,)`): The original's newline, a vector of the language model's space.

    Returns:
        `float`: The relative error of the newline's visual token; rounding where H is d or more.
    """
    head, embeddings = model.model.vocabulary_head, model.model.get_word_embeddings()  # (V, d)
    tokens = head.weight.double().T @ embeddings.double()  # (H, d): what each of n's H numbers adds
    inverse, _ = invert_words(tokens.to(head.weight.dtype))  # (H, d)
    newline = inverse @ (token.double() - head.bias.double() @ embeddings.double())  # (H,)
    model.model.image_newline.copy_(newline)
    made = model.model.mix(model.model.image_newline).double()  # (d,)
    return ((made - token).norm() / token.norm()).item()

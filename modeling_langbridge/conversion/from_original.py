# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the published LangBridge code, converted into a model of this package that computes the same.

The original is LLaVA-1.5 with another projector. For the features v of an image's patches it computes

    c = W3 (W2 gelu(W1 v + b1) + b2) + b3    the layers 0, 2 and 3 of `model.mm_projector`
    x = c M                                  M (V, d): the file `mm_vocab_matrix`, which no checkpoint holds

M is a copy of the words' embeddings from before the training; a model of this package reads the live ones, E. Where
training has moved them, the head is corrected so that its coefficients c' make the same visual tokens: c' E = c M.
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
from ..modeling_langbridge import LangBridgeForConditionalGeneration, load_vision_tower
from ..processing_langbridge import LangBridgeProcessor, find_vision_config
from ..utils.files import first_line
from ..vocabulary.shared_vocabulary import SharedVocabulary
from ..vocabulary_head import LangBridgeVocabularyHead
from .original_checkpoint import (
    LANGUAGE_MODELS,
    read_config,
    read_matrix,
    read_text_config,
    read_vocabulary,
    read_weights,
)


LAYERS = {"0": "multi_modal_projector.linear_1", "2": "multi_modal_projector.linear_2", "3": "vocabulary_head"}


class EmbeddingShift(NamedTuple):
    """How far the words' embeddings E `(V, d)` have moved from the matrix M, and how well the head makes up for it."""

    distance: float  # |E - M| / |M|; 0 where M rounds to E, and the head is as it was
    rank: int  # how many of the d dimensions the words span; d where the head is as it was
    width: int  # d
    error: float  # of the map from the projector's output to visual tokens, relative, weights rounded as they are

    def __str__(self) -> str:
        if self.distance == 0:
            return "The vocabulary matrix holds the language model's own embeddings: the head was taken as it is."
        return (
            f"The words' embeddings have moved by {self.distance:.2%} since the vocabulary matrix was taken: the head "
            f"was corrected, so that visual tokens differ from the original's by a relative error of {self.error:.1e} "
            f"(the words span {self.rank} of the {self.width} dimensions)."
        )


class ConvertedLangBridge(NamedTuple):
    """What [`convert_langbridge`] returns."""

    model: LangBridgeForConditionalGeneration
    processor: LangBridgeProcessor
    shift: EmbeddingShift | None  # `None` where no matrix was given
    unnamed: list[str]  # the spellings of the words that a saved adapter could not name


@torch.no_grad()
def convert_langbridge(
    folder: str | Path,
    vocabulary: str | Path,
    vocab_matrix: str | Path | None = None,
    language_model: str | None = None,
    vision_tower: str | None = None,
) -> ConvertedLangBridge:
    """
    Builds the LangBridge that gives the visual tokens and the logits of a checkpoint of the published code.

    Parts that the checkpoint does not hold (a frozen vision tower; after the first stage, the language model) are
    loaded from where its `config.json` says. No code in `.bin` and `.pt` files is run.

    Args:
        folder (`str` or `Path`):
            The checkpoint: `config.json` and the weights, as safetensors or `.bin`, in one file or in shards, or the
            projector's alone (`mm_projector.bin`).
        vocabulary (`str` or `Path`):
            The JSON file of the words, spelling to token id, whose first V are the checkpoint's.
        vocab_matrix (`str` or `Path`, *optional*):
            The file M `(V, d)` that training read as `mm_vocab_matrix`. When left out, M is taken to be the language
            model's embeddings, as it is where only the projector was trained.
        language_model (`str`, *optional*):
            Folder or Hub id of the language model before training: for its tokenizer and chat template, and for its
            weights where the checkpoint has none. When left out, the checkpoint's own tokenizer where it has one, and
            for the rest what `_name_or_path` in its `config.json` names.
        vision_tower (`str`, *optional*):
            Folder or Hub id of the CLIP tower. What `mm_vision_tower` names when left out.

    Returns:
        [`ConvertedLangBridge`], its model in eval mode and in the language model's dtype.

    Raises:
        `FileNotFoundError`: a file is missing.
        `ValueError`: a file is damaged or does not fit the others, or the checkpoint asks for another forward pass.

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
        if (folder / "generation_config.json").is_file():
            text.generation_config = load(GenerationConfig, folder, "--model")
    else:
        text = load(AutoModelForCausalLM, base, "--language_model")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, image_processor, tokenizer)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision,
        text,
        list(words.values()),
        processor,
        projector_hidden_size=config["mlp_hidden_size"],
        projector_hidden_act="gelu",
        coefficient_activation="linear",
        vision_feature_layer=config["mm_vision_select_layer"],
    )
    for layer, place in LAYERS.items():
        module = model.model.get_submodule(place)
        module.weight.copy_(weights.projector[f"{layer}.weight"])
        module.bias.copy_(weights.projector[f"{layer}.bias"])
    shift = None
    if matrix is not None:
        embeddings = model.model.get_word_embeddings()
        check_order(matrix, embeddings, list(words), f"{vocab_matrix} and {vocabulary}")
        shift = correct_head(model.model.vocabulary_head, matrix, embeddings)
    nameable = set(SharedVocabulary.build([tokenizer], []).token_ids(tokenizer))
    unnamed = [word for word, token_id in words.items() if token_id not in nameable]
    return ConvertedLangBridge(model, processor, shift, unnamed)


def load(auto_class, source: str | Path | None, flag: str, **options):
    if source is None:
        raise ValueError(f"The checkpoint's config.json does not say which {flag} it was trained with: give it.")
    try:
        return auto_class.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{auto_class.__name__} cannot read {source} ({first_line(error)}): give a folder or Hub id as {flag}."
        ) from error


def check_order(matrix: torch.Tensor, embeddings: torch.Tensor, words: list[str], files: str) -> None:
    """Refuses a matrix `(V, d)` whose rows are in another order than the words, whose embeddings `(V, d)` training may
    have moved, but hardly turned by 60 degrees. The mean, which all words share, is left out of the comparison."""
    rows, live = (tensor.double() - tensor.double().mean(0) for tensor in (matrix, embeddings))  # (V, d)
    astray = (F.cosine_similarity(rows, live) < 0.5).nonzero().flatten().tolist()
    if len(astray) > len(words) // 100:
        some = ", ".join(repr(words[index]) for index in astray[:3])
        raise ValueError(
            f"{files} do not go together: {len(astray)} of {len(words)} rows are far from their words' embeddings, "
            f"like those of {some}: the words are in another order, or another language model's."
        )


def correct_head(head: LangBridgeVocabularyHead, matrix: torch.Tensor, embeddings: torch.Tensor) -> EmbeddingShift:
    """
    Changes the head by as little as makes its words, with their embeddings E, what they were with M.

    W' = W + E⁺ᵀ (M - E)ᵀ W, for the weight and likewise the bias, so that W'ᵀ E = Wᵀ E + Wᵀ (M - E) E⁺E: this is Wᵀ M
    where the words span all d dimensions, and elsewhere as near to it as words can come.

    Args:
        head (`LangBridgeVocabularyHead`): Changed in place, unless M rounds to E.
        matrix (`torch.Tensor` of shape `(V, d)`): M, the words' embeddings that the head was trained with.
        embeddings (`torch.Tensor` of shape `(V, d)`): E, those that it will be used with.
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

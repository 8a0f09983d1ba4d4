# SPDX-License-Identifier: Apache-2.0
"""The adapter on its own: weights and words, without token ids, so that any language model can use it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..modeling_langbridge_next import LangBridgeNextForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor
from ..utils.files import atomic_folder, find_folder, push_saved, read_safetensors
from ..utils.weights import read_metadata, require_finite
from ..vocabulary.shared_vocabulary import VOCABULARY_FILE, SharedVocabulary
from ..vocabulary_head import pack_token_ids
from .configuration import NEWLINE, LangBridgeAdapterConfig, differences, read_config, shapes_of
from .kinds import check_language_model, check_vision_tower
from .placeholder import placeholder_language_model
from .word_combinations import combine_split_words


WEIGHTS = "adapter.safetensors"
CONFIGURATION = "config.json"
FILES = (CONFIGURATION, VOCABULARY_FILE, WEIGHTS)
PARTS = ("model.multi_modal_projector.", "model.vocabulary_head.", f"model.{NEWLINE}")
SHIPPED = Path(__file__).with_name("grounded_efficientnet_lite0")
OF_THE_LANGUAGE_MODEL = (".token_ids", ".combined_ids", ".combined_weights", ".remainder_weight")
WORDS = "vocabulary_sha256"  # in the metadata of the weights


class LangBridgeAdapter:
    """
    An adapter without a vision tower and a language model: a projector, a vocabulary head and their V words.

    It knows words and no language model, so any language model can use it that is told where it keeps these words
    (LangBridge, arXiv 2503.19404).

    Args:
        config ([`LangBridgeAdapterConfig`]): Its shape, and what it reads.
        vocabulary ([`SharedVocabulary`]): The V words, in the order of the coefficients.
        weights (`dict[str, torch.Tensor]`): Of `multi_modal_projector` and `vocabulary_head`, by their names, and
            LangBridge-NeXT's `image_newline`.
        name (`str`, *optional*): Where it comes from, for error messages.

    Raises:
        `ValueError`: the words or the weights are not those that the configuration asks for, or one is not finite.

    Example:

    ```python
    >>> from modeling_langbridge import LangBridgeAdapter

    >>> adapter = LangBridgeAdapter.from_pretrained("my-langbridge/adapter")
    >>> model, processor = adapter.join("openai/clip-vit-large-patch14-336", "Qwen/Qwen2-7B-Instruct")
    ```
    """

    def __init__(
        self,
        config: LangBridgeAdapterConfig,
        vocabulary: SharedVocabulary,
        weights: dict[str, torch.Tensor],
        name: str = "The adapter",
    ):
        self.config, self.vocabulary, self.weights, self.name = config, vocabulary, weights, name
        if len(vocabulary) != config.bridge_vocab_size:
            raise ValueError(
                f"{name}: its vocabulary has {len(vocabulary)} words, but `bridge_vocab_size` is "
                f"{config.bridge_vocab_size}: save the adapter again."
            )
        if wrong := differences(shapes_of(weights), config.weight_shapes(), "the configuration"):
            raise ValueError(f"{name}: its weights are not whole and plain ({wrong}).")
        require_finite(weights.items(), name)

    @classmethod
    def from_model(
        cls,
        model: LangBridgeForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> "LangBridgeAdapter":
        """
        The adapter of a model. Its weights are the model's own, not copies.

        Args:
            model (`LangBridgeForConditionalGeneration`):
                The model, in any dtype and on any device.
            tokenizer (`PreTrainedTokenizerBase`):
                The tokenizer of its language model, which tells which words the token ids stand for.
            state_dict (`dict[str, torch.Tensor]`, *optional*):
                The full state of the model, where training has sharded or wrapped the parameters and gathers them
                elsewhere. The model's own when left out.

        Raises:
            `ValueError`: the adapter is not made of words, is quantised or wrapped, or a token id is not an ordinary
            word of the tokenizer.
        """
        model.config.require_words("`LangBridgeAdapter.from_model`")
        vocabulary = SharedVocabulary.from_token_ids(tokenizer, model.model.get_word_ids())
        weights = adapter_weights(model.state_dict() if state_dict is None else state_dict)
        return cls(LangBridgeAdapterConfig.from_model_config(model.config), vocabulary, weights, "The model's adapter")

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, revision: str | None = None) -> "LangBridgeAdapter":
        """
        Loads an adapter from a folder or the Hub.

        Args:
            name (`str` or `os.PathLike`): The folder that [`~LangBridgeAdapter.save_pretrained`] wrote, or a Hub id.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.

        Raises:
            `OSError`: the folder or one of its three files is missing.
            `ValueError`: a file is damaged, they do not belong together, or the words are not those, or not in the
            order, that the weights were saved with.
        """
        folder = find_folder(name, FILES, revision)
        if missing := [file for file in FILES if not (folder / file).is_file()]:
            raise FileNotFoundError(f"There is no {', no '.join(missing)} in {folder}: name the folder of an adapter.")
        config = read_config(folder / CONFIGURATION)
        vocabulary = SharedVocabulary.from_file(folder / VOCABULARY_FILE)
        adapter = cls(config, vocabulary, read_safetensors(folder / WEIGHTS), str(folder))
        # Earlier versions saved no hash.
        if read_metadata(folder / WEIGHTS).get(WORDS, hash_words(vocabulary)) != hash_words(vocabulary):
            raise ValueError(
                f"{folder / VOCABULARY_FILE} is not the one that the weights were saved with (other words, or "
                "another order): take it from where the adapter comes from."
            )
        return adapter

    @classmethod
    def grounded_efficientnet_lite0(cls) -> "LangBridgeAdapter":
        """
        The adapter that ships with the package, for research use: grounded on Flickr8k, in 2,000 words that Qwen 2,
        Llama 3, SmolLM2 and Gemma 3 share. Its vision tower is EfficientNet-Lite0 (see docs/pretrained_parts.md).
        """
        return cls.from_pretrained(SHIPPED)

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Writes `adapter.safetensors`, `vocabulary.json` and `config.json` to a new folder, all of them or none.

        Args:
            save_directory (`str` or `os.PathLike`): The folder. It must not exist yet, or be empty.

        Raises:
            `FileExistsError`: the folder exists and is not empty; nothing in it is touched.
        """
        with atomic_folder(save_directory) as folder:
            content = json.dumps(self.config.to_content(), indent=2) + "\n"
            (folder / CONFIGURATION).write_text(content, encoding="utf-8", newline="\n")
            self.vocabulary.save(folder / VOCABULARY_FILE)
            weights = {name: weight.detach().cpu().contiguous() for name, weight in self.weights.items()}
            # One entry: safetensors writes several in a random order, and one adapter should be one file.
            save_file(weights, folder / WEIGHTS, metadata={WORDS: hash_words(self.vocabulary)})

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:
        """
        Uploads the adapter to a repository of the Hub, which is made where it does not exist. It writes no card:
        scripts/push_to_hub.py does.

        Args:
            repo_id (`str`): The repository.
            kwargs: `commit_message`, `private`, `token` and `create_pr`, as of
                [`~transformers.utils.PushToHubMixin.push_to_hub`].
        """
        return push_saved(self.save_pretrained, repo_id, **kwargs)

    def join(
        self,
        vision: str | PreTrainedModel,
        text: str | PreTrainedModel | None = None,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        split_words: str | None = None,
        words_per_image: int | None = None,
        linear_remainder: bool = False,
        model_class: type[LangBridgeForConditionalGeneration] | None = None,
        pool_patches: int | None = None,
        reference_model: PreTrainedModel | None = None,
        reference_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
        """
        Joins the adapter with a vision tower and a language model, which may be another than it was trained with.

        Args:
            vision (`str` or `PreTrainedModel`):
                Hub id, folder or loaded model of the vision tower that the adapter was trained with.
            text (`str` or `PreTrainedModel`, *optional*):
                Hub id, folder or loaded model of any language model. When left out, a placeholder takes its place:
                images can be read as words, and nothing can be generated.
            image_processor (`BaseImageProcessor`, *optional*), tokenizer (`PreTrainedTokenizerBase`, *optional*):
                Taken from where `vision` and `text` came from when left out.
            split_words (`str`, *optional*):
                What to do with words that the tokenizer splits into pieces: `"leave_out"`, `"mean"` or `"combine"`,
                see [`LangBridgeConfig`]. When left out, such words raise an error.
            words_per_image (`int`, *optional*), linear_remainder (`bool`, *optional*, defaults to `False`):
                As of [`LangBridgeConfig`].
            model_class (`type`, *optional*):
                [`LangBridgeForConditionalGeneration`], or [`LangBridgeNextForConditionalGeneration`] for images of any
                resolution. The latter by default where the adapter has a newline; where it has none, that is random.
            pool_patches (`int`, *optional*):
                As of [`LangBridgeConfig`]; that of the adapter's own model when left out.
            reference_model (`PreTrainedModel`, *optional*),
            reference_tokenizer (`PreTrainedTokenizerBase`, *optional*):
                For `"combine"`: a language model that has the words whole, and its tokenizer. Its embeddings tell
                which words the others are made of.

        Returns:
            `tuple(LangBridgeForConditionalGeneration, LangBridgeProcessor)`: the model in eval mode, in the language
            model's dtype and on its device, with a copy of the weights; and its processor.

        Raises:
            `ValueError`: the vision tower or the language model is something else or of a kind that is not supported,
            or the tokenizer lacks words, or their combinations a reference.
        """
        combines = split_words == "combine"
        if combines and (reference_model is None or reference_tokenizer is None):
            raise ValueError(
                "`split_words` combine needs a language model that has the words whole: give `reference_model` and "
                "`reference_tokenizer`."
            )
        if isinstance(vision, str):
            check_vision_tower(vision)
        if isinstance(text, str):
            check_language_model(text)
        if text is None:
            text, tokenizer = placeholder_language_model(self.vocabulary)
        if model_class is None:
            is_next = self.config.image_newline
            model_class = LangBridgeNextForConditionalGeneration if is_next else LangBridgeForConditionalGeneration
        processor = model_class.processor_class.from_vision_text_pretrained(
            vision,
            text,
            image_processor,
            tokenizer,
            words_per_image,
            pool_patches=pool_patches or self.config.pool_patches,
        )
        words = self.locate_words(processor.tokenizer, split_words)  # before a large language model is loaded
        given = ("bridge_vocab_size", "vision_feature_select_strategy", "vision_feature_size", "vision_model_type")
        shape = {name: value for name, value in self.config.to_shape().items() if name not in given}
        begin = "mean" if combines else split_words
        model = model_class.from_vision_text_pretrained(
            vision, text, words, processor, split_words=begin, linear_remainder=linear_remainder, **shape
        )
        self.check_fits(model)
        self.copy_weights(model)
        if combines and model.config.pieces_per_word > 1:
            languages = processor.tokenizer, reference_model, reference_tokenizer
            model.model.vocabulary_head.combine(*combine_split_words(self.vocabulary, *languages))
            model.config.split_words = "combine"
        return model, processor

    def load_onto(self, model: LangBridgeForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
        """
        Copies the weights into a model of the same shape, in place, and points the words at its tokenizer's ids.
        Dtype, device and `requires_grad` stay the model's.

        Args:
            model (`LangBridgeForConditionalGeneration`): Unchanged where an error is raised.
            tokenizer (`PreTrainedTokenizerBase`): The tokenizer of its language model.

        Raises:
            `ValueError`: the adapter does not fit the model, or the tokenizer lacks words.
        """
        model.config.require_words("`load_onto`")
        self.check_fits(model)
        split_words = model.config.split_words if model.config.pieces_per_word > 1 else None
        token_ids = pack_token_ids(self.locate_words(tokenizer, split_words))  # (V,) or (V, pieces)
        head, num_tokens = model.model.vocabulary_head, model.config.text_config.vocab_size
        if token_ids.max() >= num_tokens:
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path!r} keeps words of the adapter under ids up to "
                f"{token_ids.max()}, but the model has {num_tokens} embeddings: it belongs to another language model."
            )
        if token_ids.shape != head.token_ids.shape:
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path!r} splits the adapter's words into other numbers of pieces "
                "than the model was made for: make another model by `LangBridgeAdapter.join`."
            )
        if head.combined_ids is not None and not token_ids.equal(head.token_ids.cpu()):
            raise ValueError(
                "The model's split words are combined for other words than the adapter's: make another model by "
                "`LangBridgeAdapter.join`."
            )
        self.copy_weights(model)
        head.token_ids.copy_(token_ids)

    def locate_words(
        self, tokenizer: PreTrainedTokenizerBase, split_words: str | None = None
    ) -> list[int] | list[list[int]]:
        """The token ids of the words, or of their pieces, in a tokenizer; see [`SharedVocabulary.locate`].

        Raises:
            `ValueError`: the tokenizer splits words and nothing is said about these, or it has fewer than a quarter of
            the words whole and the others are to be left out.
        """
        try:
            words = self.vocabulary.locate(tokenizer, split_words)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}.") from None
        whole = sum(isinstance(word, int) or len(word) == 1 for word in words)
        if split_words == "leave_out" and whole < len(words) / 4:
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path!r} has {whole} of the adapter's {len(words)} words as single "
                "tokens, too few to leave the others out: use their pieces' mean (`split_words` mean)."
            )
        return words

    def check_fits(self, model: LangBridgeForConditionalGeneration) -> None:
        """Raises `ValueError` where the model's adapter is of another shape, or is not made of plain tensors."""
        of_the_model = LangBridgeAdapterConfig.from_model_config(model.config)
        if wrong := differences(self.config.to_shape(), of_the_model.to_shape(), "the model"):
            raise ValueError(
                f"{self.name} does not fit the model ({wrong}): an adapter keeps its shape, and works only with the "
                "kind of vision tower that it was trained with."
            )
        # Of the newline either may have none.
        own, its = (
            {**shapes_of(weights), NEWLINE: None} for weights in (self.weights, adapter_weights(model.state_dict()))
        )
        if wrong := differences(own, its, "the model"):
            raise ValueError(f"The model's adapter is quantised or wrapped ({wrong}): give a plain model.")

    def copy_weights(self, model: LangBridgeForConditionalGeneration) -> None:
        """Copies the weights into a model that they fit, outside of autograd."""
        targets = adapter_weights(model.state_dict())  # shares the parameters' memory
        for name in self.weights.keys() & targets.keys():
            targets[name].copy_(self.weights[name])
        if model.model.vocabulary_head.remainder_weight is not None:
            model.model.vocabulary_head.remainder_weight.detach().zero_()  # it belonged to the adapter before


def adapter_weights(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter's weights out of a whole model's, without what belongs to its language model."""
    return {
        name.removeprefix("model."): tensor
        for name, tensor in state_dict.items()
        if name.startswith(PARTS) and not name.endswith(OF_THE_LANGUAGE_MODEL)
    }


def hash_words(vocabulary: SharedVocabulary) -> str:
    """A hash of the words and their order, which says whether a vocabulary is the one that weights belong to."""
    return hashlib.sha256(json.dumps(vocabulary.surfaces).encode()).hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""The model that a training script trains: a LangBridge that exists, or a new one made of two parts."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from .option_values import AT_LEAST_1, check_values
from .several.arguments import LanguageModelsArguments


if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
    from modeling_langbridge.adapter.configuration import LangBridgeAdapterConfig
    from modeling_langbridge.conversion.variants import Variant


@dataclass
class ModelArguments(LanguageModelsArguments):
    """What is trained: a LangBridge that exists, or a new one made of two parts. How it is loaded: as in TRL."""

    _argument_group_name = "model"

    model: str | None = field(
        default=None, metadata={"help": "A LangBridge to go on from (folder or Hub id), instead of two parts."}
    )
    vision_tower: str | None = field(default=None, metadata={"help": "Folder or Hub id of the vision tower."})
    adapter: str | None = field(
        default=None,
        metadata={"help": "An adapter alone (folder or Hub id), trained with any language model, to start from."},
    )
    model_type: Literal["langbridge", "langbridge_next"] | None = field(
        default=None,
        metadata={
            "help": "Whether a new model reads images of one size, langbridge, or of any resolution in tiles, as "
            "LLaVA-NeXT does, langbridge_next; default: langbridge, or what --adapter was trained in."
        },
    )
    image_grid_pinpoints: list[str] | None = field(
        default=None,
        metadata={
            "help": "With langbridge_next: the resolutions, HEIGHTxWIDTH in pixels, that an image may be brought to, "
            "such as 336x672 672x336 672x672; default: LLaVA-NeXT's five, of two to four tiles."
        },
    )
    adapter_type: Literal["langbridge", "mlp", "linear"] = field(
        default="langbridge",
        metadata={
            "help": "The adapter of a new model: langbridge or, to compare with, mlp (LLaVA's) or linear (VLAP's), "
            "for which projector_hidden_size and coefficient_activation say nothing, nor vocabulary and vocab_size "
            "but for assignment prediction."
        },
    )
    vocabulary: str | None = field(
        default=None,
        metadata={
            "help": "File of a shared vocabulary (create_vocab_subset.py makes one); default: Qwen 2's and Llama 3's. "
            "Its words are a new adapter's, or assignment prediction's where the adapter is not made of words."
        },
    )
    vocab_size: Annotated[int | None, AT_LEAST_1] = field(
        default=None,
        metadata={
            "help": "How many of its words the coefficients or the assignments run over (V); default: a file's all, "
            "else 19200."
        },
    )
    projector_hidden_size: Annotated[int, AT_LEAST_1] = field(
        default=5120, metadata={"help": "Width of the projector (H)."}
    )
    coefficient_activation: Literal["linear", "softmax", "gated_softmax"] = field(
        default="linear", metadata={"help": "linear: the paper's raw coefficients; the others: distributions."}
    )
    words_per_image: Annotated[int | None, AT_LEAST_1] = field(
        default=None,
        metadata={
            "help": "Give a new model's language model this many words of an image, the strongest, instead of a "
            "visual token for every patch; needs softmax or gated_softmax."
        },
    )
    pool_patches: Annotated[int | None, AT_LEAST_1] = field(
        default=None,
        metadata={
            "help": "Average squares of so many by so many patches of a new model, for fewer visual tokens; default: "
            "as --adapter has it, else 1, a token for every patch."
        },
    )
    # From here on the names, types and meanings are those of trl.ModelConfig. As a base class it would bring LoRA's
    # options, which PartArguments has for each part, and others that have no effect here.
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of --model on the Hub."})
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = field(
        default="auto",
        metadata={"help": "What a model is loaded in; auto: as it was saved. What is trained is kept in float32."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa (default), flash_attention_2 (needs flash-attn), eager …"}
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "Load the language model in 4 bits (QLoRA: with --train_language_model lora)."},
    )
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = field(
        default="nf4", metadata={"help": "With --load_in_4bit: the quantization type."}
    )
    use_bnb_nested_quant: bool = field(
        default=False, metadata={"help": "With --load_in_4bit: whether to quantise the quantization's constants, too."}
    )

    def __post_init__(self):
        check_values(self)
        self.take_first()
        if self.language_models and self.load_in_4bit:
            raise ValueError("`load_in_4bit` does not go with `language_models`: leave one out.")
        self.resolutions()

    def resolutions(self) -> list[list[int]] | None:
        """`image_grid_pinpoints` as a configuration holds them, `[height, width]`."""
        if self.image_grid_pinpoints is None:
            return None
        for resolution in self.image_grid_pinpoints:
            if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", resolution):
                raise ValueError(
                    f"`image_grid_pinpoints` holds {resolution!r}: give heights and widths in pixels, such as 336x672."
                )
        return [list(map(int, resolution.split("x"))) for resolution in self.image_grid_pinpoints]


# What a new model is made of.
COMPOSING = (
    "vision_tower",
    "language_model",
    "adapter",
    "model_type",
    "image_grid_pinpoints",
    "adapter_type",
    "vocabulary",
    "vocab_size",
    "projector_hidden_size",
    "coefficient_activation",
    "words_per_image",
    "pool_patches",
    "dtype",
)


def load_model(
    arguments: ModelArguments, base: Path, needs_folder: bool
) -> tuple["LangBridgeForConditionalGeneration", "LangBridgeProcessor"]:
    """
    The model to be trained and its processor. LoRA's file refers to a folder of the model it belongs to, and a model
    is quantised while it is loaded from one: a new model is then written to `base` first.
    """
    from modeling_langbridge.adapter.loading import open_model

    check_places(arguments, needs_folder)
    folder = arguments.model
    if folder is None:
        if not needs_folder:
            return compose(arguments)
        folder = str(base)
        compose_once(arguments, base)
    return open_model(
        folder,
        revision=arguments.model_revision,
        device_map=None,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
        quantization_config=quantize(arguments),
    )


def quantize(arguments: ModelArguments) -> "BitsAndBytesConfig | None":
    """How the language model is quantised, by the options."""
    from transformers import BitsAndBytesConfig

    if not arguments.load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=arguments.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=arguments.use_bnb_nested_quant,
        bnb_4bit_compute_dtype="bfloat16" if arguments.dtype == "auto" else arguments.dtype,
        # Names count from the root; others would match nothing, and nobody would say so.
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )


def check_places(arguments: ModelArguments, needs_folder: bool) -> None:
    """Raises `ValueError` where what is to be trained is said twice or not at all, or is something else."""
    from modeling_langbridge.adapter.kinds import check_language_model, check_vision_tower

    parts = arguments.vision_tower, arguments.language_model
    if arguments.model is not None and (any(parts) or arguments.adapter):
        raise ValueError(
            "--model is a whole LangBridge; --vision_tower, --language_model and --adapter make a new one: leave one "
            "side out."
        )
    if arguments.model_revision != "main" and (arguments.model is None or needs_folder):
        raise ValueError(
            "--model_revision is of a --model that is trained without LoRA, whose file names no revision of its base: "
            "download the revision (`hf download`) and give its folder."
        )
    if arguments.model is not None:
        return
    if not all(parts):
        raise ValueError("Say what to train: --model, or --vision_tower and --language_model.")
    check_vision_tower(arguments.vision_tower)
    for name in arguments.language_models or [arguments.language_model]:
        check_language_model(name)
    if arguments.adapter is not None and arguments.adapter_type != "langbridge":
        raise ValueError(
            f"--adapter is made of words, --adapter_type {arguments.adapter_type} is not: leave one of them out."
        )


def compose_once(arguments: ModelArguments, base: Path) -> None:
    """
    Writes a new model to `base`, where an interrupted run has not done so.

    Raises:
        `ValueError`: the one that is there was composed by other options.
    """
    from modeling_langbridge.utils.files import atomic_folder, read_json

    options = {name: getattr(arguments, name) for name in COMPOSING}
    record = base / "composed_of.json"
    if not base.exists():
        with atomic_folder(base) as unfinished:
            for part in compose(arguments):
                part.save_pretrained(unfinished)
            (unfinished / record.name).write_text(json.dumps(options, indent=2), encoding="utf-8")
    elif record.is_file():
        before = read_json(record)
        for name in COMPOSING:
            if options[name] != before.get(name):
                raise ValueError(
                    f"{base} was composed with --{name} {before.get(name)}, not {options[name]}: name another "
                    "--output_dir."
                )


def compose_processor(
    arguments: ModelArguments, text: "str | PreTrainedModel", adapter: "LangBridgeAdapterConfig | None"
) -> tuple["Variant", "LangBridgeProcessor"]:
    """Which LangBridge a new model is, and its processor, by the options and the adapter to start from."""
    from modeling_langbridge.conversion.variants import VARIANTS

    model_type = arguments.model_type
    if model_type is None:
        model_type = "langbridge_next" if adapter is not None and adapter.image_newline else "langbridge"
    variant = VARIANTS[model_type]
    tiles = {"image_grid_pinpoints": arguments.resolutions()} if variant.is_next else {}
    processor = variant.processor.from_vision_text_pretrained(
        arguments.vision_tower,
        text,
        words_per_image=arguments.words_per_image,
        pool_patches=arguments.pool_patches or (1 if adapter is None else adapter.pool_patches),
        **tiles,
    )
    return variant, processor


def compose(arguments: ModelArguments) -> tuple["LangBridgeForConditionalGeneration", "LangBridgeProcessor"]:
    """A new LangBridge of a vision tower and a language model, with a fresh adapter or one trained elsewhere."""
    from transformers import AutoModelForCausalLM

    from modeling_langbridge import LangBridgeAdapter, SharedVocabulary

    language_model = AutoModelForCausalLM.from_pretrained(arguments.language_model, dtype=arguments.dtype)
    parts = arguments.vision_tower, language_model
    adapter = None if arguments.adapter is None else LangBridgeAdapter.from_pretrained(arguments.adapter)
    variant, processor = compose_processor(arguments, language_model, adapter and adapter.config)
    if adapter is not None:
        model, processor = adapter.join(
            *parts,
            processor.image_processor,
            words_per_image=arguments.words_per_image,
            model_class=variant.model,
            pool_patches=arguments.pool_patches,
        )
    else:
        vocabulary = None
        if arguments.adapter_type == "langbridge":
            vocabulary = SharedVocabulary.load(arguments.vocabulary, arguments.vocab_size)
        model = variant.model.from_vision_text_pretrained(
            *parts,
            vocabulary,
            processor=processor,
            adapter_type=arguments.adapter_type,
            projector_hidden_size=arguments.projector_hidden_size,
            coefficient_activation=arguments.coefficient_activation,
        )
    if arguments.attn_implementation is not None:
        model.set_attn_implementation(arguments.attn_implementation)
    return model, processor

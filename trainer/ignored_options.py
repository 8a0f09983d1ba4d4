# SPDX-License-Identifier: Apache-2.0
"""Options that would have no effect beside others are refused, where someone has typed them."""

from collections.abc import Iterable, Iterator
from typing import Any

from .sft_config import LangBridgeSFTConfig


def refuse_ignored(given: set[str], rules: Iterable[tuple[bool, set[str], str]]) -> None:
    """
    Refuses options on the command line that would have no effect. A recipe may hold some: others extend it.

    Args:
        given (`set[str]`): the names on the command line, from [`RecipeParser.parse`].
        rules (`Iterable`): whether a rule applies, the options that have no effect then, and why.

    Raises:
        `ValueError`: names the option and the reason.
    """
    for applies, names, reason in rules:
        if applies and (ignored := sorted(names & given)):
            raise ValueError(f"--{ignored[0]} would have no effect: {reason}.")


def find_ignored(model: Any, data: Any, config: LangBridgeSFTConfig) -> Iterator[tuple[bool, set[str], str]]:
    """Which options of `scripts/train.py` say nothing beside others, for [`refuse_ignored`]."""
    shape = {"projector_hidden_size", "coefficient_activation"}
    words = {"vocabulary", "vocab_size"}
    objective = {"assignment_targets", "assignment_temperature"}
    tiles = {"image_grid_pinpoints"}
    of_the_model = shape | tiles | {"model_type", "adapter_type", "words_per_image", "pool_patches"}
    yield model.model is not None, of_the_model, "--model has an adapter of its own"
    yield model.model_type != "langbridge_next", tiles, "it needs --model_type langbridge_next"
    yield model.adapter is not None, shape | words, "--adapter has a shape and words of its own"
    yield model.adapter_type != "langbridge", shape | {"words_per_image"}, "the adapter is not made of words"
    yield (
        not config.assignment_prediction_weight and (model.model is not None or model.adapter_type != "langbridge"),
        words,
        "the words are those of a new adapter, or of assignment prediction",
    )
    yield not model.load_in_4bit, {"bnb_4bit_quant_type", "use_bnb_nested_quant"}, "it needs --load_in_4bit"
    yield "lora" not in config.modes().values(), {"lora_r", "lora_alpha", "lora_dropout"}, "no part is trained by LoRA"
    for part, mode in config.modes().items():
        yield mode == "frozen", {f"{part}_learning_rate"}, f"the part is frozen, see --train_{part}"
    yield not config.word_prediction_weight, {"frequency_power"}, "it needs --word_prediction_weight"
    yield not config.assignment_prediction_weight, objective, "it needs --assignment_prediction_weight"
    yield not (config.packing or config.eval_packing), {"packing_strategy"}, "it needs --packing"
    yield not data.preview_photos, {"preview_steps"}, "it needs --preview_photos"

# SPDX-License-Identifier: Apache-2.0
"""Tells what a training run would take, before its parts are downloaded: parameters, memory, the batch that fits.

Takes the recipes and the options of train.py; no file with weights and no data are read. Where a recipe goes on from a
model that an earlier stage makes, give that model's parts instead:

    python scripts/plan.py --config scripts/recipes/pretrain_qwen2_0.5b.yaml --memory 24GB
    python scripts/plan.py --config scripts/recipes/finetune_qwen2_7b.yaml --projector_hidden_size 3584 \\
        --vision_tower openai/clip-vit-large-patch14-336 --language_model Qwen/Qwen2-7B-Instruct

The memory is that of one process, without sharding, where all samples are as long as --text_tokens says.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from trainer.command_line import check_new_file, run_script
from trainer.data_arguments import DataArguments
from trainer.model_loading import ModelArguments
from trainer.option_values import AT_LEAST_1, check_values


if TYPE_CHECKING:
    from trainer.planning.described_run import DescribedRun

CARDS = (16, 24, 48, 80)  # GB


@dataclass
class PlanArguments:
    """What is planned for."""

    _argument_group_name = "plan"

    memory: str | None = field(
        default=None, metadata={"help": "Memory of the GPU, such as 24GB; default: a table of common ones."}
    )
    text_tokens: Annotated[int, AT_LEAST_1] = field(
        default=128, metadata={"help": "Tokens of a sample, those of its images not counted."}
    )
    images_per_sample: Annotated[int, AT_LEAST_1] = field(default=1, metadata={"help": "Images of a sample."})
    device: Literal["gpu", "cpu"] = field(default="gpu", metadata={"help": "What the run would compute on."})
    json: str | None = field(default=None, metadata={"help": "A file to write the figures to, in bytes."})

    def __post_init__(self):
        check_values(self)
        if self.memory is not None and not re.fullmatch(r"[1-9]\d*(GB|GiB)", self.memory):
            raise ValueError(f"`memory` is {self.memory!r}: give a whole number of GB, such as 24GB.")
        if self.json is not None:
            check_new_file(Path(self.json), "--json")

    def cards(self) -> list[int]:
        """The memories to fill, in GB, which are 2³⁰ bytes as on the cards' labels."""
        return [*CARDS] if self.memory is None else [int(self.memory.rstrip("GiB"))]


def keep_for_gpu(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what transformers refuses where there is no GPU, and which takes no memory."""
    return {name: value for name, value in recipe.items() if name != "tf32"}


def describe_options(run: "DescribedRun", config: Any, device: str) -> str:
    """What the figures are of."""
    precision = "bfloat16 beside float32" if config.bf16 else "float16 beside float32" if config.fp16 else "float32"
    checkpointing = "on" if config.gradient_checkpointing else "off"
    objectives = {
        "word prediction": config.word_prediction_weight,
        "assignment prediction": config.assignment_prediction_weight,
    }
    beside = [f"{name} is not counted" for name, weight in objectives.items() if weight]
    tokens = f"{run.sample_tokens} tokens a sample, of which {run.image_tokens} of each image"
    where = f"On a {device.upper()} in {precision}, checkpointing {checkpointing}"
    return "; ".join([where, tokens, *beside]) + "."


def count_others(run: "DescribedRun") -> list[int]:
    """The parameters of each language model after the first."""
    from trainer.parts import count_parameters

    return [count_parameters(turn.model)[0]["language_model"] for turn in run.turns[1:]]


def plan(run: "DescribedRun", batch_size: int, cards: list[int]) -> dict[str, Any]:
    """The figures of a run, in bytes, multiply-adds and samples."""
    from tqdm import tqdm

    from trainer.parts import count_parameters
    from trainer.planning.fitting import largest_batch

    cost = run.cost(batch_size)
    total, trained = count_parameters(run.training.model)
    return {
        "parameters": total,
        "trained_parameters": trained,
        "parameters_of_other_language_models": count_others(run),
        "tokens_of_a_sample": run.sample_tokens,
        "visual_tokens_of_an_image": run.image_tokens,
        "batch": batch_size,
        "memory": {**cost.memory, "assumed for CUDA": run.context},
        "memory_in_all": run.memory(batch_size),
        "multiply_adds": {str(dtype).removeprefix("torch."): number for dtype, number in cost.multiply_adds.items()},
        "largest_batch": {
            f"{card}GB": largest_batch(run.memory, card * 2**30)
            for card in tqdm(cards, desc="filling cards", leave=False)
        },
    }


def describe(figures: dict[str, Any]) -> str:
    """The figures as tables."""
    from trainer.parts import in_units
    from trainer.planning.simulated_step import KINDS

    memory = figures["memory"]
    rows = [(kind, memory[kind]) for kind in (*KINDS, "assumed for CUDA") if memory.get(kind)]
    lines = [f"| at the peak of a step, batches of {figures['batch']} | memory |", "|---|---:|"]
    lines += [f"| {kind} | {in_units(size)} |" for kind, size in rows]
    lines += [f"| **in all** | **{in_units(figures['memory_in_all'])}** |", ""]
    products = figures["multiply_adds"]
    shares = ", ".join(f"{number / sum(products.values()):.1%} in {dtype}" for dtype, number in products.items())
    turns = ", the mean of the language models' turns" if figures["parameters_of_other_language_models"] else ""
    lines += [f"Multiply-adds of a step's products{turns}: {sum(products.values()):.2e}, {shares}.", ""]
    lines += ["| GPU | largest per_device_train_batch_size, up to 512 |", "|---|---:|"]
    for card, batch in figures["largest_batch"].items():
        lines.append(f"| {card} | {batch or 'does not fit'} |")
    return "\n".join(lines)


def main() -> None:
    from trainer import LangBridgeSFTConfig, describe_parts
    from trainer.ignored_options import find_ignored, refuse_ignored
    from trainer.planning.described_run import DescribedRun
    from trainer.recipes import RecipeParser

    parser = RecipeParser((PlanArguments, ModelArguments, DataArguments, LangBridgeSFTConfig), __doc__)
    arguments, model, data, config, given = parser.parse(fit=keep_for_gpu)
    if {"vision_tower", "language_model"} <= given and "model" not in given:
        model.model = None  # the recipe's, which an earlier stage has yet to make
    refuse_ignored(given, find_ignored(model, data, config))
    if config.label_smoothing_factor:
        raise ValueError("`label_smoothing_factor`, which takes all logits, is not planned: leave it out.")
    run = DescribedRun(
        model, config, arguments.text_tokens, None, arguments.images_per_sample, arguments.device == "gpu"
    )
    print(describe_options(run, config, arguments.device), end="\n\n")
    print(describe_parts(run.training.model, config, config.learning_rate))
    for name, count in zip((model.language_models or [])[1:], count_others(run), strict=True):
        print(f"  {name}: frozen, takes turns with the first language model, {count:,} parameters")
    print()
    figures = plan(run, config.per_device_train_batch_size, arguments.cards())
    print(describe(figures))
    if arguments.json is not None:
        import json

        from modeling_langbridge.utils.files import atomic_file

        with atomic_file(Path(arguments.json)) as unfinished:
            unfinished.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main)

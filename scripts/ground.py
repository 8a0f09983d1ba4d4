# SPDX-License-Identifier: Apache-2.0
"""Grounds a new adapter: its coefficients learn to be the words of photos' captions. No language model is loaded.

The adapter that comes out, in OUTPUT_DIR/adapter, works with any language model whose tokenizer has its words:

    python scripts/ground.py --config scripts/recipes/ground.yaml --vision_tower openai/clip-vit-large-patch14-336 \\
        --tokenizer Qwen/Qwen2-0.5B-Instruct --dataset captions.json --image_folder images --output_dir grounded
    python scripts/train.py --config scripts/recipes/transfer_llama3_8b.yaml --adapter grounded/adapter ...
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from trainer.command_line import run_script
from trainer.data.image_arguments import ImageArguments
from trainer.option_values import AT_LEAST_1, check_values


if TYPE_CHECKING:
    from trainer import GroundingConfig


@dataclass
class GroundingArguments(ImageArguments):
    """What is grounded, in which words, on what."""

    _argument_group_name = "model and data"

    vision_tower: str = field(metadata={"help": "Folder or Hub id of the vision tower."})
    dataset: str = field(metadata={"help": "Photos with captions, in any form that train.py takes."})
    model_type: Literal["langbridge", "langbridge_next"] = field(
        default="langbridge",
        metadata={"help": "Whether photos are read at one size, or whole and in tiles, as a LangBridge-NeXT does."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a language model: checks that its tokenizer has every word whole."},
    )
    eval_dataset: str | None = field(
        default=None, metadata={"help": "Likewise, what loss and word precision are measured on."}
    )
    vocabulary: str | None = field(
        default=None, metadata={"help": "File of a shared vocabulary; default: Qwen 2's and Llama 3's."}
    )
    vocab_size: Annotated[int | None, AT_LEAST_1] = field(
        default=None, metadata={"help": "How many of its words (V); default: a file's all, else 19200."}
    )
    projector_hidden_size: Annotated[int, AT_LEAST_1] = field(
        default=5120, metadata={"help": "Width of the projector (H)."}
    )
    coefficient_activation: Literal["gated_softmax", "softmax"] = field(
        default="gated_softmax", metadata={"help": "Distributions over the words, with a gate or without."}
    )

    def __post_init__(self):
        check_values(self)


def main(command_line: list[str] | None = None) -> None:
    from trainer import GroundingConfig, GroundingTrainer
    from trainer.recipes import RecipeParser

    arguments, config, _ = RecipeParser((GroundingArguments, GroundingConfig), __doc__).parse(command_line)
    from trainer.checkpointing.output_folder import writing_to
    from trainer.run_plan import begin_log

    begin_log(config)
    with writing_to(config, GroundingTrainer.published) as finished_steps:
        if finished_steps is None:
            ground(arguments, config)
        else:
            print(f"The run in {config.output_dir} is finished, at step {finished_steps}: nothing is changed.")


def ground(arguments: GroundingArguments, config: "GroundingConfig") -> None:
    """Loads data and tower, trains, and saves the adapter."""
    from transformers import AutoTokenizer, set_seed

    from modeling_langbridge import SharedVocabulary
    from modeling_langbridge.adapter.kinds import check_vision_tower
    from modeling_langbridge.conversion.variants import VARIANTS
    from trainer import GroundingTrainer, compose_for_grounding, load_training_data

    dataset, eval_dataset = (
        path and load_training_data(path, **arguments.image_options())
        for path in (arguments.dataset, arguments.eval_dataset)
    )
    check_vision_tower(arguments.vision_tower)
    vocabulary = SharedVocabulary.load(arguments.vocabulary, arguments.vocab_size)
    set_seed(config.seed)
    if arguments.tokenizer is not None:
        vocabulary.token_ids(AutoTokenizer.from_pretrained(arguments.tokenizer))  # refuses words that it splits
    langbridge, processor = compose_for_grounding(
        arguments.vision_tower,
        vocabulary,
        VARIANTS[arguments.model_type].model,
        projector_hidden_size=arguments.projector_hidden_size,
        coefficient_activation=arguments.coefficient_activation,
    )
    names = arguments.dataset, arguments.eval_dataset
    trainer = GroundingTrainer(langbridge, config, processor, vocabulary, dataset, eval_dataset, *names)
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        print(f"The grounded adapter is in {Path(config.output_dir, 'adapter')}.")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    run_script(main)

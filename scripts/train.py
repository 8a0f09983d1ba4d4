# SPDX-License-Identifier: Apache-2.0
"""Trains a LangBridge: a new one made of a vision tower and a language model, or one that exists.

A recipe says what is trained on what and how; any of its options, and any of trl's SFTConfig, can be given on the
command line too, which wins. Alone, or in several processes by `accelerate launch`:

    python scripts/train.py --config scripts/recipes/pretrain_qwen2_0.5b.yaml --dataset captions.json
    accelerate launch --config_file scripts/accelerate/fsdp2.yaml scripts/train.py \\
        --config scripts/recipes/finetune_llama3_8b.yaml --dataset llava_v1_5_mix665k.json --image_folder images

An interrupted run goes on with --resume_from_checkpoint last, as if it had not been interrupted.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import run_script
from trainer.data_arguments import DataArguments
from trainer.model_loading import ModelArguments, load_model


if TYPE_CHECKING:
    from trainer import LangBridgeSFTConfig


def train(model_arguments: ModelArguments, data_arguments: DataArguments, config: "LangBridgeSFTConfig") -> None:
    """Trains what the options say and saves it."""
    from transformers import set_seed
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from modeling_langbridge import SharedVocabulary
    from trainer import (
        LangBridgeSFTTrainer,
        PhotoPreviewCallback,
        SeveralLanguageModelsTrainer,
        load_training_data,
        share_adapter,
    )
    from trainer.checkpointing.interruption import set_previews_aside

    output = Path(config.output_dir)
    options = {
        "split": data_arguments.dataset_split,
        "streaming": data_arguments.streaming,
        **data_arguments.image_options(),
    }
    dataset = load_training_data(data_arguments.dataset, **options)
    eval_dataset = data_arguments.eval_dataset and load_training_data(data_arguments.eval_dataset, **options)
    if data_arguments.streaming:
        dataset = dataset.shuffle(seed=config.seed, buffer_size=1000)
    set_seed(config.seed)  # a fresh adapter is random, too
    # ZeRO-3 would shard while loading, which each process does in turn; the trainer turns it on again.
    unset_hf_deepspeed_config()
    needs_folder = model_arguments.load_in_4bit or "lora" in config.modes().values()
    with config.main_process_first(desc="composing the model"):
        model, processor = load_model(model_arguments, output / "base", needs_folder)
    vocabulary = None
    if config.assignment_prediction_weight and model.config.adapter_type != "langbridge":
        vocabulary = SharedVocabulary.load(model_arguments.vocabulary, model_arguments.vocab_size)
    callbacks = []
    if data_arguments.preview_photos:
        if config.resume_from_checkpoint is None and config.process_index == 0:
            set_previews_aside(output)
        callbacks.append(
            PhotoPreviewCallback(processor, data_arguments.preview_photos, data_arguments.preview_steps, output)
        )
    trainer_class, several = LangBridgeSFTTrainer, {}
    if model_arguments.language_models:
        names, attention = model_arguments.language_models[1:], model_arguments.attn_implementation
        trainer_class = SeveralLanguageModelsTrainer
        several = {"others": {name: share_adapter(model, processor, name, attention) for name in names}}
    trainer = trainer_class(
        model,
        args=config,
        processing_class=processor,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        vocabulary=vocabulary,
        dataset_name=data_arguments.dataset,
        eval_dataset_name=data_arguments.eval_dataset,
        callbacks=callbacks,
        **several,
    )
    if model_arguments.adapter is not None:
        trainer.recorder.go_on_from(model_arguments.adapter)
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    # A process that ends earlier takes down the one that still writes.
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        print(f"The trained model is in {output}.")
    trainer.accelerator.end_training()


def main(arguments: list[str] | None = None) -> None:
    from trainer import LangBridgeSFTConfig
    from trainer.ignored_options import find_ignored, refuse_ignored
    from trainer.recipes import RecipeParser

    parser = RecipeParser((ModelArguments, DataArguments, LangBridgeSFTConfig), __doc__)
    model_arguments, data_arguments, config, given = parser.parse(arguments)
    from trainer.checkpointing.output_folder import writing_to
    from trainer.run_plan import begin_log
    from trainer.several.trainer import check_options

    refuse_ignored(given, find_ignored(model_arguments, data_arguments, config))
    if config.trust_remote_code:
        raise ValueError(
            "--trust_remote_code has no effect: a LangBridge runs the installed modeling_langbridge, and vision tower "
            "and language model must be of types that transformers has."
        )
    if model_arguments.language_models:
        check_options(config, data_arguments.eval_dataset)
    if not data_arguments.dataset:
        raise ValueError("Say what to train on: --dataset.")
    begin_log(config)
    with writing_to(config) as finished_steps:
        if finished_steps is None:
            train(model_arguments, data_arguments, config)
        else:
            print(f"The run in {config.output_dir} is finished, at step {finished_steps}: nothing is changed.")


if __name__ == "__main__":
    run_script(main)

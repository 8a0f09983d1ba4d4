# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Joins a vision tower and a language model with a new LangBridge adapter, or takes up a LangBridge, and trains it.

Pretraining stage: only the adapter learns, and only the assistant's answers are targets. Any option of trl's SFTConfig
can be given too, in the recipe or on the command line, which wins:

    python scripts/train.py --config scripts/recipes/pretrain.yaml \\
        --vision_tower openai/clip-vit-large-patch14-336 --language_model Qwen/Qwen2-0.5B-Instruct \\
        --dataset blip_laion_cc_sbu_558k.json --image_folder images --output_dir langbridge-qwen2-0.5b
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import TrlParser

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, load_training_data


@dataclass
class ModelArguments:
    """What is trained: a LangBridge that exists, or a new one made of two parts."""

    model: str | None = field(
        default=None, metadata={"help": "A LangBridge to go on from (folder or Hub id), instead of two parts."}
    )
    vision_tower: str | None = field(default=None, metadata={"help": "Folder or Hub id of the vision tower."})
    language_model: str | None = field(default=None, metadata={"help": "Folder or Hub id of the language model."})
    vocabulary: str | None = field(
        default=None,
        metadata={
            "help": "File of a shared vocabulary (create_vocab_subset.py makes one); default: Qwen 2's and Llama 3's."
        },
    )
    vocab_size: int | None = field(
        default=None,
        metadata={"help": "How many of its words the coefficients run over (V); default: a file's all, else 19200."},
    )
    projector_hidden_size: int = field(default=5120, metadata={"help": "Width of the projector (H)."})
    coefficient_activation: str = field(
        default="linear", metadata={"help": "linear (the paper's raw coefficients), softmax or gated_softmax."}
    )


@dataclass
class DataArguments:
    """What it is trained on."""

    dataset: str = field(
        default="", metadata={"help": "LLaVA-style json, a folder of Dataset.save_to_disk, or a dataset's Hub id."}
    )
    image_folder: str | None = field(default=None, metadata={"help": "What a json's image paths are relative to."})


def load_model(arguments: ModelArguments):
    if arguments.model is not None:
        model = AutoModelForImageTextToText.from_pretrained(arguments.model)
        return model, AutoProcessor.from_pretrained(arguments.model)
    if arguments.vision_tower is None or arguments.language_model is None:
        raise ValueError("Say what to train: --model, or --vision_tower and --language_model.")
    processor = LangBridgeProcessor.from_vision_text_pretrained(arguments.vision_tower, arguments.language_model)
    if arguments.vocabulary is None:
        vocabulary = SharedVocabulary.qwen2_llama3(arguments.vocab_size or 19200)
    else:
        vocabulary = SharedVocabulary.from_file(arguments.vocabulary)
        vocabulary = vocabulary.first(arguments.vocab_size or len(vocabulary))
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        arguments.vision_tower,
        arguments.language_model,
        vocabulary,
        processor=processor,
        projector_hidden_size=arguments.projector_hidden_size,
        coefficient_activation=arguments.coefficient_activation,
    )
    return model, processor


def main(arguments: list[str] | None = None) -> None:
    model_arguments, data_arguments, config = TrlParser(
        (ModelArguments, DataArguments, LangBridgeSFTConfig), description=__doc__
    ).parse_args_and_config(arguments)
    output = Path(config.output_dir)
    if config.resume_from_checkpoint is None and output.exists() and any(output.iterdir()):
        raise ValueError(
            f"--output_dir {output} is not empty: name another folder, or go on with --resume_from_checkpoint."
        )
    if not data_arguments.dataset:
        raise ValueError("Say what to train on: --dataset.")
    dataset = load_training_data(data_arguments.dataset, data_arguments.image_folder)
    model, processor = load_model(model_arguments)
    trainer = LangBridgeSFTTrainer(model, args=config, train_dataset=dataset, processing_class=processor)
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model()
    print(f"The trained model lies in {output}.")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"train.py: {error}")

# SPDX-License-Identifier: Apache-2.0
"""Changes the language model: puts a trained LangBridge, or an adapter alone, on another one, without its training."""

import argparse
import sys
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments, set_seed

from hub_cards.training_record import carry_record
from modeling_langbridge import (
    LangBridgeAdapter,
    transfer,
)
from modeling_langbridge.adapter.configuration import is_adapter
from modeling_langbridge.adapter.loading import open_model
from modeling_langbridge.adapter.transfer_diagnosis import diagnose_transfer
from modeling_langbridge.adapter.word_space import clean_null_space
from modeling_langbridge.utils.files import atomic_folder
from trainer.data.images import list_images
from trainer.data.samples import path_of, read_sample
from trainer.data.sources import load_training_data
from trainer.distillation import check_distillable, distil
from trainer.evaluation.word_scores import pixel_batches


EPILOG = """examples:
  A grounded adapter (docs/grounding.md), usable at once; an image is handed over as its eight strongest words:
    python scripts/transfer.py --model grounded/adapter --vision_tower openai/clip-vit-large-patch14-336 \\
        --text meta-llama/Meta-Llama-3-8B-Instruct --words_per_image 8 --output_dir my-llama3

  The same for a whole model, to be finetuned: its words stay, a linear map beside them learns what they do not say:
    python scripts/transfer.py --model my-langbridge --text mistralai/Mistral-7B-Instruct-v0.2 --linear_remainder \\
        --output_dir my-mistral

  Or its words distilled into raw coefficients first, from images alone, so that it can be folded and exported:
    python scripts/transfer.py --model my-langbridge --text Qwen/Qwen2-7B-Instruct --distill_images photos \\
        --output_dir my-qwen2

What the swap is likely to be worth is printed before anything is written (docs/transfer.md says how to read it).
"""
PHOTOS_TO_LOOK_AT = 64


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="a LangBridge checkpoint, or an adapter alone (folder or Hub id)"
    )
    parser.add_argument(
        "--vision_tower", help="for an adapter alone: folder or Hub id of the tower that it was trained with"
    )
    parser.add_argument("--text", required=True, help="folder or Hub id of the new language model")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to write; it must not exist yet")
    parser.add_argument(
        "--split_words",
        choices=("leave_out", "mean"),
        default="leave_out",
        help="what becomes of words that the new tokenizer cuts into pieces: the others stand for the image alone, or "
        "the mean of the pieces stands for the word (default: leave_out)",
    )
    parser.add_argument(
        "--words_per_image", type=int, help="hand this many words of an image over (default: as --model does)"
    )
    parser.add_argument(
        "--linear_remainder",
        action="store_true",
        help="add a linear map beside the words, nothing at first, for finetuning to teach",
    )
    parser.add_argument(
        "--clean_null_space",
        action="store_true",
        help="first take out of raw coefficients all that is nothing to the old language model",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="FOLDER",
        help=f"look at up to {PHOTOS_TO_LOOK_AT} photos: how long their visual tokens are, and of how few words",
    )
    parser.add_argument(
        "--distill_images",
        metavar="DIR|DATASET",
        help="distil the words into raw coefficients: a folder of images, or a dataset as train.py takes",
    )
    parser.add_argument("--distill_steps", type=int, default=500, help="default: 500")
    parser.add_argument("--distill_batch_size", type=int, default=32, help="images a step (default: 32)")
    parser.add_argument("--distill_learning_rate", type=float, default=1e-2, help="Muon's highest (default: 0.01)")
    parser.add_argument(
        "--dtype", default="auto", help="of the new language model: auto (as saved, the default), bfloat16 …"
    )
    return parser.parse_args()


def images_of(source: str) -> list:
    """The images of a folder, or those of a dataset, each once."""
    if Path(source).is_dir() and (images := list_images(source)):
        return images
    images = [image for row in load_training_data(source) for image in read_sample(row)["images"]]
    if not images:
        raise ValueError(f"There are no images in {source}: name a folder of .jpg or .png, or a dataset with images.")
    return list({path_of(image) or position: image for position, image in enumerate(images)}.values())


def put_on(arguments: argparse.Namespace, text: PreTrainedModel):
    """The model as it was, `None` of an adapter alone; the same adapter on the new language model; its processor."""
    if is_adapter(arguments.model):
        if arguments.vision_tower is None:
            raise ValueError(f"{arguments.model} is an adapter alone: give its vision tower, --vision_tower.")
        if arguments.clean_null_space:
            raise ValueError("--clean_null_space needs the old language model: give a whole checkpoint as --model.")
        new, processor = LangBridgeAdapter.from_pretrained(arguments.model).join(
            arguments.vision_tower,
            text,
            split_words=arguments.split_words,
            words_per_image=arguments.words_per_image,
            linear_remainder=arguments.linear_remainder,
        )
        return None, new, processor
    if arguments.vision_tower is not None:
        raise ValueError(f"{arguments.model} is a whole checkpoint, which has its tower: leave out --vision_tower.")
    old, processor = open_model(arguments.model, device_map=None)
    if arguments.clean_null_space:
        clean_null_space(old)
    new, processor = transfer(
        old,
        processor,
        text,
        split_words=arguments.split_words,
        words_per_image=arguments.words_per_image,
        linear_remainder=arguments.linear_remainder,
    )
    return old, new, processor


def main() -> None:
    arguments = parse_arguments()
    images = images_of(arguments.distill_images) if arguments.distill_images else []
    photos = list_images(arguments.photos) if arguments.photos else images
    with atomic_folder(arguments.output_dir) as unfinished:
        text = AutoModelForCausalLM.from_pretrained(arguments.text, dtype=arguments.dtype)
        old, new, processor = put_on(arguments, text)
        if images:
            check_distillable(new.config, images)
        pixel_values = None
        if photos:
            looked_at = photos[:: -(-len(photos) // PHOTOS_TO_LOOK_AT)]
            pixel_values = torch.cat(list(pixel_batches(new.model, processor.image_processor, looked_at)))
        print(diagnose_transfer(old, new, pixel_values))
        if images:
            old = None  # it may be large, and is needed no longer
            set_seed(0)
            training = TrainingArguments(
                output_dir=unfinished,
                max_steps=arguments.distill_steps,
                per_device_train_batch_size=arguments.distill_batch_size,
                learning_rate=arguments.distill_learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.05,
                remove_unused_columns=False,
                save_strategy="no",
                report_to="none",
                logging_steps=50,
            )
            r2 = distil(new, processor, images, training)
            print(f"Distilled into raw coefficients: R² {r2:.3f} of the visual tokens, on images held out.")
        new.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        carry_record(arguments.model, unfinished)
    print(f"The model with its new language model lies in {arguments.output_dir}.")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, SafetensorError) as error:
        sys.exit(f"transfer.py: {error}")
    except StrictDataclassError as error:  # around the configuration's own sentence
        sys.exit(f"transfer.py: {error.__cause__}")

# SPDX-License-Identifier: Apache-2.0
"""Changes the language model of a trained LangBridge, or of an adapter alone, without training the language model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import DTYPES, run_script
from trainer.number_arguments import at_least


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


EPILOG = """examples:
  A grounded adapter (docs/grounding.md), usable at once; an image becomes its eight strongest words:
    python scripts/transfer.py --model grounded/adapter --vision_tower openai/clip-vit-large-patch14-336 \\
        --language_model meta-llama/Meta-Llama-3-8B-Instruct --words_per_image 8 --output_dir my-llama3

  The same for a whole model, to be finetuned: its words stay, a linear map beside them learns what they do not say:
    python scripts/transfer.py --model my-langbridge --language_model mistralai/Mistral-7B-Instruct-v0.2 \\
        --linear_remainder --output_dir my-mistral

  Or its words distilled into raw coefficients first, from images alone, so that it can be folded and exported:
    python scripts/transfer.py --model my-langbridge --language_model Qwen/Qwen2-7B-Instruct \\
        --distill_images photos --output_dir my-qwen2

  And taught what the new language model says of each image by its words, for better captions:
    python scripts/transfer.py --model my-langbridge --language_model Qwen/Qwen2-7B-Instruct \\
        --distill_images photos --distill_caption_steps 400 --output_dir my-qwen2

What the swap is likely to be worth is printed before anything is written (docs/transfer.md says how to read it).
"""
MEASURED_PHOTOS = 64
TEACHER_WORDS = 8  # per image, as everywhere


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
    parser.add_argument(
        "--model_type",
        choices=("langbridge", "langbridge_next"),
        help="for an adapter alone: whether the model reads images of one size, or of any resolution in tiles "
        "(default: as the adapter was trained)",
    )
    parser.add_argument("--language_model", "--text", required=True, help="folder or Hub id of the new language model")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to write; it must not exist yet")
    parser.add_argument(
        "--split_words",
        choices=("leave_out", "mean", "combine"),
        default="leave_out",
        help="what becomes of words that the new tokenizer splits: they are left out, each is the mean of its pieces, "
        "or a combination of a few words that lie near it in the old language model (default: leave_out)",
    )
    parser.add_argument(
        "--reference_language_model",
        metavar="LANGUAGE_MODEL",
        help="for --split_words combine of an adapter alone: folder or Hub id of any language model that has the "
        "words as single tokens",
    )
    parser.add_argument(
        "--words_per_image",
        type=at_least(1),
        help="give the language model this many words of an image (default: as --model does)",
    )
    parser.add_argument(
        "--pool_patches",
        type=at_least(1),
        help="average squares of so many by so many patches, for fewer visual tokens (default: as --model does)",
    )
    parser.add_argument(
        "--linear_remainder",
        action="store_true",
        help="add a linear map beside the words, zero at first, for finetuning to train",
    )
    parser.add_argument(
        "--clean_null_space",
        action="store_true",
        help="first take out of raw coefficients what has no effect on the old language model",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="FOLDER",
        help=f"measure the visual tokens of up to {MEASURED_PHOTOS} photos: how long they are, and of how few words",
    )
    parser.add_argument(
        "--distill_images",
        metavar="DIR|DATASET",
        help="distil the words into raw coefficients: a folder of images, or a dataset as train.py takes",
    )
    parser.add_argument(
        "--allow_image_urls", action="store_true", help="with --distill_images: fetch images that the data name by URL"
    )
    parser.add_argument(
        "--allow_paths_outside",
        action="store_true",
        help="with --distill_images: read images whose paths lead out of the dataset's folder",
    )
    parser.add_argument("--distill_steps", type=at_least(1), default=500, help="default: 500")
    parser.add_argument("--distill_batch_size", type=at_least(1), default=32, help="images a step (default: 32)")
    parser.add_argument(
        "--distill_learning_rate", type=at_least(0, float), default=1e-2, help="Muon's highest (default: 0.01)"
    )
    parser.add_argument(
        "--distill_caption_steps",
        type=at_least(1),
        metavar="STEPS",
        help="then train them for STEPS steps on what the new language model says of each image by its "
        f"{TEACHER_WORDS} strongest words (default: not at all)",
    )
    parser.add_argument(
        "--distill_question",
        default="Describe the image in one sentence.",
        help="with --distill_caption_steps: what it is asked (default: %(default)r)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="of the new language model (default: auto, as it was saved)",
    )
    arguments = parser.parse_args()
    if arguments.distill_caption_steps and not arguments.distill_images:
        parser.error("--distill_caption_steps needs --distill_images, the images to caption")
    return arguments


def collect_images(source: str, **rules: bool) -> list:
    """The images of a folder, or those of a dataset under its rules for images, each once."""
    from trainer import load_training_data
    from trainer.data.image_places import path_of
    from trainer.data.images import list_images
    from trainer.data.photo_folders import leave_out_broken
    from trainer.data.samples import read_sample

    if Path(source).is_dir() and (images := list_images(source)):
        return leave_out_broken(images, f"--distill_images {source}")
    images = [image for row in load_training_data(source, **rules) for image in read_sample(row)["images"]]
    if not images:
        raise ValueError(f"There are no images in {source}: name a folder of .jpg or .png, or a dataset with images.")
    images = list({path_of(image) or position: image for position, image in enumerate(images)}.values())
    return leave_out_broken(images, f"--distill_images {source}")


def sample(photos: list) -> list:
    """At most as many photos as are measured, spread over all of them."""
    return photos[:: max(1, -(-len(photos) // MEASURED_PHOTOS))]


def change_language_model(
    arguments: argparse.Namespace, language_model: "PreTrainedModel"
) -> tuple["LangBridgeForConditionalGeneration | None", "LangBridgeForConditionalGeneration", "LangBridgeProcessor"]:
    """The model as it was, `None` of an adapter alone; the same adapter on the new language model; its processor."""
    from transformers import AutoTokenizer

    from modeling_langbridge import LangBridgeAdapter, transfer
    from modeling_langbridge.adapter.kinds import is_adapter
    from modeling_langbridge.adapter.loading import open_language_model, open_model
    from modeling_langbridge.adapter.word_space import clean_null_space
    from modeling_langbridge.conversion.variants import VARIANTS

    names = ("split_words", "words_per_image", "pool_patches", "linear_remainder")
    options = {name: getattr(arguments, name) for name in names}
    if is_adapter(arguments.model):
        if arguments.vision_tower is None:
            raise ValueError(f"{arguments.model} is an adapter alone: give its vision tower, --vision_tower.")
        if arguments.clean_null_space:
            raise ValueError("--clean_null_space needs the old language model: give a whole checkpoint as --model.")
        if (arguments.split_words == "combine") != (arguments.reference_language_model is not None):
            raise ValueError("--split_words combine and --reference_language_model go together for an adapter alone.")
        adapter = LangBridgeAdapter.from_pretrained(arguments.model)
        if name := arguments.reference_language_model:
            options["reference_model"] = open_language_model(name, dtype=arguments.dtype)
            options["reference_tokenizer"] = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        if arguments.model_type is not None:
            options["model_class"] = VARIANTS[arguments.model_type].model
        return None, *adapter.join(arguments.vision_tower, language_model, **options)
    for flag in ("vision_tower", "model_type", "reference_language_model"):
        if getattr(arguments, flag) is not None:
            raise ValueError(f"{arguments.model} is a whole checkpoint, which has its own: leave out --{flag}.")
    old, processor = open_model(arguments.model, device_map=None)
    if arguments.clean_null_space:
        clean_null_space(old)
    return old, *transfer(old, processor, language_model, **options)


def distil_into_raw(
    arguments: argparse.Namespace,
    model: "LangBridgeForConditionalGeneration",
    processor: "LangBridgeProcessor",
    language_model: "PreTrainedModel",
    images: list,
    scratch: Path,
) -> None:
    """Makes the adapter raw coefficients, in place, by its visual tokens and, where asked for, by its captions."""
    from transformers import TrainingArguments, set_seed

    from modeling_langbridge import transfer
    from trainer import LangBridgeSFTConfig, distil, distil_captions
    from trainer.device import has_gpu

    options = {
        "output_dir": str(scratch),
        "per_device_train_batch_size": arguments.distill_batch_size,
        "learning_rate": arguments.distill_learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "save_strategy": "no",
        "report_to": "none",
        "dataloader_pin_memory": has_gpu(),
    }
    set_seed(0)
    steps, question = arguments.distill_caption_steps, arguments.distill_question
    teacher = transfer(model, processor, language_model, words_per_image=TEACHER_WORDS) if steps else None
    training = TrainingArguments(
        max_steps=arguments.distill_steps, remove_unused_columns=False, logging_steps=50, **options
    )
    r2 = distil(model, processor, images, training)
    print(f"Distilled into raw coefficients: R² {r2:.3f} of the visual tokens, on images held out.")
    if teacher is not None:
        config = LangBridgeSFTConfig(max_steps=steps, logging_steps=max(1, steps // 10), **options)
        loss = distil_captions(model, processor, teacher, images, config, question)
        print(f"Distilled from captions: at the end {loss:.3f} nats per token from what is said after the words.")


def main() -> None:
    arguments = parse_arguments()
    import torch

    from hub_cards.training_record import carry_record
    from modeling_langbridge.adapter.loading import open_language_model
    from modeling_langbridge.adapter.transfer_diagnosis import diagnose_transfer
    from modeling_langbridge.utils.files import atomic_folder
    from modeling_langbridge.utils.weights import require_finite
    from trainer.data.photo_folders import find_photos, leave_out_broken
    from trainer.distillation import check_distillable
    from trainer.evaluation.word_scores import pixel_batches

    rules = {name: getattr(arguments, name) for name in ("allow_image_urls", "allow_paths_outside")}
    images = collect_images(arguments.distill_images, **rules) if arguments.distill_images else []
    photos = images
    if arguments.photos is not None:
        photos = leave_out_broken(sample(find_photos(arguments.photos, "--photos")), f"--photos {arguments.photos}")
    with atomic_folder(arguments.output_dir) as unfinished:
        language_model = open_language_model(arguments.language_model, dtype=arguments.dtype)
        old, new, processor = change_language_model(arguments, language_model)
        if images:
            check_distillable(new.config, images)
        features = []
        with torch.no_grad():
            for pixels in pixel_batches(new.model, processor.image_processor, sample(photos)):
                features += new.model.get_patch_features(**pixels)  # photos x (tokens, d_v)
        print(diagnose_transfer(old, new, features))
        if images:
            old = None  # it may be large, and is needed no longer
            distil_into_raw(arguments, new, processor, language_model, images, unfinished)
        require_finite(new.named_parameters(), "the model on its new language model")
        new.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        carry_record(arguments.model, unfinished)
    print(f"The model with its new language model is in {arguments.output_dir}.")


if __name__ == "__main__":
    run_script(main)

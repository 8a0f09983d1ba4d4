# SPDX-License-Identifier: Apache-2.0
"""Converts a checkpoint of the published LangBridge code: one folder that loads anywhere, with the same logits."""

import argparse
from pathlib import Path

from trainer.command_line import run_script


EPILOG = """examples:
  After finetuning, in the paths that the original's scripts use:
    python scripts/convert_langbridge_weights_to_hf.py \\
        --model checkpoints/llama3_it_8b_it_vocab_19200_dim_5120_finetune_mmvocab \\
        --vocabulary vocab/19200_llama3_sub_llava_share_intersect_llama_qwen.json \\
        --vocab_matrix embeddings/Meta-Llama-3-8B-Instruct_embedding_matrix_19200.pt \\
        --language_model meta-llama/Meta-Llama-3-8B-Instruct --output_dir my-langbridge

  After the first stage, which leaves the projector alone (config.json and mm_projector.bin):
    python scripts/convert_langbridge_weights_to_hf.py --model checkpoints/qwen2_pretrain \\
        --vocabulary vocab/19200_Qwen_sub_llava_share_intersect_llama_qwen.json \\
        --language_model Qwen/Qwen2-0.5B-Instruct --output_dir my-langbridge

The original multiplies by a copy of the words' embeddings from before the training, the vocabulary matrix; the model
written here reads the language model's own. Where finetuning has moved these, the vocabulary head is corrected so that
the visual tokens stay the same: give --vocab_matrix. A checkpoint whose images are tiles (mm_patch_merge_type
spatial_unpad) becomes a LangBridge-NeXT. More: docs/conversion.md.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the checkpoint: config.json and the weights (safetensors or .bin, whole or in shards)",
    )
    parser.add_argument(
        "--vocabulary",
        type=Path,
        required=True,
        metavar="JSON",
        help="the words and their token ids, in the order of training; the first mm_vocab_size are taken",
    )
    parser.add_argument(
        "--vocab_matrix",
        type=Path,
        metavar="FILE",
        help="the file that was --mm_vocab_matrix in training (default: the language model's embeddings as they are)",
    )
    parser.add_argument(
        "--language_model",
        help="the language model before training, by folder or Hub id, for its tokenizer and chat template, and for "
        "its weights after the first stage (default: the checkpoint's own tokenizer; _name_or_path in config.json)",
    )
    parser.add_argument(
        "--vision_tower", help="the CLIP tower, by folder or Hub id (default: mm_vision_tower in config.json)"
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="FOLDER", help="the folder to write; it must not exist yet"
    )
    arguments = parser.parse_args()
    from modeling_langbridge.conversion.from_original import convert_langbridge
    from modeling_langbridge.utils.files import atomic_folder

    with atomic_folder(arguments.output_dir) as unfinished:
        model, processor, shift, unnamed, newline_error = convert_langbridge(
            arguments.model,
            arguments.vocabulary,
            arguments.vocab_matrix,
            arguments.language_model,
            arguments.vision_tower,
        )
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    if shift is None:
        print(
            "No --vocab_matrix was given: the language model's embeddings were taken to be the matrix, which is right "
            "only if it was not finetuned."
        )
    else:
        print(shift)
    if newline_error is not None:
        print(
            "The newline, a vector of the language model's space in the original, is made of words with a relative "
            f"error of {newline_error:.1e}."
        )
    if unnamed:
        print(
            f"{len(unnamed)} of the words are special tokens, parts of a character or second spellings, such as "
            f"{unnamed[0]!r}: the model works with them, but its adapter cannot be saved alone."
        )
    print(f"The converted model is in {arguments.output_dir}.")


if __name__ == "__main__":
    run_script(main)

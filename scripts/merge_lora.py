# SPDX-License-Identifier: Apache-2.0
"""Merges a LoRA run into its floating-point base: one model that loads without PEFT, its logits proven equal."""

import argparse
from pathlib import Path

from trainer.command_line import DTYPES, run_script, torch_dtype


EPILOG = """examples:
  python scripts/merge_lora.py --model my-langbridge-lora --output_dir my-langbridge-merged

  The base has been moved since, and the merged model is wanted in another dtype:
    python scripts/merge_lora.py --model my-langbridge-lora --base my-langbridge --output_dir my-langbridge-merged \\
        --dtype bfloat16

The logits for a picture and a question are computed with the LoRA attached, with it merged, and from what was written;
nothing is left where they differ by more than 1e-5 times the largest logit (or 1e-5, where that is below 1).

After a QLoRA run: the LoRA learnt on top of a base rounded to 4 bits, and is merged into the base that was not
rounded, since a merge into 4 bits would round the LoRA too. That is the usual way, but the merged model's logits are
NOT those of the 4-bit model that was trained: evaluate the merged model again.
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
        help="the output folder of a run with --train_language_model lora, or one of its checkpoints",
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="FOLDER", help="the folder to write; it must not exist yet"
    )
    parser.add_argument(
        "--base",
        help="the LangBridge that the LoRA was trained on, by folder or Hub id, not quantised (default: what "
        "base_model_name_or_path in the LoRA's adapter_config.json names)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="what to write the weights in (default: what the base was saved in); the merge itself is done in float32",
    )
    arguments = parser.parse_args()
    from transformers import AutoConfig

    from hub_cards.training_record import carry_record
    from modeling_langbridge.conversion.logit_probe import save_in
    from modeling_langbridge.utils.files import atomic_folder
    from trainer import merge_lora

    with atomic_folder(arguments.output_dir) as unfinished:
        model, processor, merging = merge_lora(arguments.model, arguments.base)
        print(f"Merging changed the logits by at most {merging}.")
        dtype = torch_dtype(arguments.dtype) or AutoConfig.from_pretrained(model.name_or_path).dtype
        rounding = save_in(model, processor, unfinished, dtype)
        carry_record(arguments.model, unfinished)
    print(f"Writing in {str(dtype).removeprefix('torch.')} changed them by {rounding.difference:.2g}.")
    print(
        f"The merged model is in {arguments.output_dir}. If the LoRA was learnt on a base in 4 bits (QLoRA), its "
        "logits are those of the floating-point base with the LoRA, not those of the 4-bit model."
    )


if __name__ == "__main__":
    run_script(main)

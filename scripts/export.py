# SPDX-License-Identifier: Apache-2.0
"""Exports a LangBridge as a stock LLaVA, which loads with transformers alone and is served wherever LLaVA is.

A LangBridge-NeXT becomes a stock LLaVA-NeXT.
"""

import argparse
from pathlib import Path

from trainer.command_line import DTYPES, run_script, torch_dtype


EPILOG = """examples:
  python scripts/export.py --model my-langbridge-trained --output_dir my-llava

  In bfloat16, whatever the LangBridge was saved in:
    python scripts/export.py --model my-langbridge-trained --output_dir my-llava --dtype bfloat16

What fits: linear coefficients and a `projector_hidden_size` of at most the language model's width, and the adapters to
compare with, mlp and linear. Distributions over words (softmax, gated_softmax) have to be distilled into linear
coefficients first (scripts/transfer.py), and a LoRA to be merged (scripts/merge_lora.py).

The logits for a picture and a question are computed, in float32, by the LangBridge, by the LLaVA made of it, and by
what was written; nothing is left where they differ by more than 1e-5 times the largest logit (or 1e-5, where that is
below 1). Between the last two all weights are rounded to the dtype, once; what that does to the logits is printed.

docs/serving.md says how the folder is served.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a LangBridge checkpoint, by folder or Hub id")
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="FOLDER", help="the folder to write; it must not exist yet"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="what to write the weights in (default: what the LangBridge was saved in); they are folded in float64",
    )
    arguments = parser.parse_args()
    import torch

    from hub_cards.training_record import carry_record
    from modeling_langbridge import to_llava
    from modeling_langbridge.adapter.loading import open_model, open_processor
    from modeling_langbridge.conversion.logit_probe import compare_logits, probe, save_in
    from modeling_langbridge.conversion.to_llava import check_fits_llava
    from modeling_langbridge.utils.files import atomic_folder

    with atomic_folder(arguments.output_dir) as unfinished:
        config, processor = open_processor(arguments.model)
        check_fits_llava(config, processor)  # here too, before the weights are read
        dtype = torch_dtype(arguments.dtype) or config.dtype
        langbridge, _ = open_model(arguments.model, device_map=None, dtype=torch.float32)
        expected = probe(langbridge, processor)
        llava, processor = to_llava(langbridge, processor)
        folding = compare_logits(probe(llava, processor), expected)
        if not folding.is_small():
            raise ValueError(f"The LLaVA's logits differ from the LangBridge's by {folding}: nothing is written.")
        print(f"The LLaVA's logits differ from the LangBridge's by at most {folding}.")
        rounding = save_in(llava, processor, unfinished, dtype)
        carry_record(arguments.model, unfinished)
    print(f"Writing in {str(dtype).removeprefix('torch.')} changed them by {rounding.difference:.2g}.")
    print(f"The LLaVA is in {arguments.output_dir}; docs/serving.md says how to serve it.")


if __name__ == "__main__":
    run_script(main)

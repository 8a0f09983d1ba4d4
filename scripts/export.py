# SPDX-License-Identifier: Apache-2.0
"""Exports a LangBridge as a stock LLaVA, which loads with transformers alone and is served wherever LLaVA is.

A LangBridge-NeXT becomes a stock LLaVA-NeXT. Or exports a vision tower and its adapter as one ONNX graph.
"""

import argparse
from pathlib import Path

from trainer.command_line import DTYPES, run_script, torch_dtype


EPILOG = """examples:
  python scripts/export.py --model my-langbridge-trained --output_dir my-llava

  In bfloat16, whatever the LangBridge was saved in:
    python scripts/export.py --model my-langbridge-trained --output_dir my-llava --dtype bfloat16

  The vision tower and the adapter as an ONNX graph, of visual tokens or, of an adapter alone, of coefficients:
    python scripts/export.py --format onnx --model my-langbridge-trained --output_dir my-onnx
    python scripts/export.py --format onnx --adapter grounded/adapter \\
        --vision_tower openai/clip-vit-large-patch14-336 --output_dir words-onnx

What fits in a LLaVA: linear coefficients and a `projector_hidden_size` of at most the language model's width, and the
adapters to compare with, mlp and linear. Distributions over words (softmax, gated_softmax) have to be distilled into
linear coefficients first (scripts/transfer.py), and a LoRA to be merged (scripts/merge_lora.py).

The logits for a picture and a question are computed, in float32, by the LangBridge, by the LLaVA made of it, and by
what was written; nothing is left where they differ by more than 1e-5 times the largest logit (or 1e-5, where that is
below 1). Between the last two all weights are rounded to the dtype, once; what that does to the logits is printed.

docs/serving.md says how the folder is served, docs/onnx.md how a graph is run.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a LangBridge checkpoint, by folder or Hub id")
    what.add_argument("--adapter", help="with --format onnx and --vision_tower: an adapter alone, by folder or Hub id")
    parser.add_argument("--vision_tower", help="with --adapter: the vision tower it was trained with")
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="FOLDER", help="the folder to write; it must not exist yet"
    )
    parser.add_argument(
        "--format", choices=("llava", "onnx"), default="llava", help="what to write (default: llava, a stock LLaVA)"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of a LLaVA: what to write the weights in (default: what the LangBridge was saved in); they are folded "
        "in float64",
    )
    arguments = parser.parse_args()
    if (arguments.adapter is None) != (arguments.vision_tower is None):
        raise ValueError("--adapter and --vision_tower go together: a checkpoint, --model, has its own tower.")
    if arguments.format == "llava" and arguments.adapter is not None:
        raise ValueError("--adapter has no language model, without which there is no LLaVA: give --format onnx.")
    if arguments.format == "onnx" and arguments.dtype is not None:
        raise ValueError("--dtype is for --format llava: a graph is in float32 (docs/onnx.md says how to shrink it).")
    return arguments


def export_onnx(arguments: argparse.Namespace) -> None:
    import logging

    import torch

    from modeling_langbridge import LangBridgeAdapter
    from modeling_langbridge.adapter.loading import load_model, open_processor
    from modeling_langbridge.conversion.to_onnx import (
        CoefficientsGraph,
        VisualTokensGraph,
        check_fits_onnx,
        write_onnx,
    )
    from modeling_langbridge.utils.files import atomic_folder
    from modeling_langbridge.vocabulary.shared_vocabulary import VOCABULARY_FILE

    # It warns of each operator of torchvision, which no vision tower here uses.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with atomic_folder(arguments.output_dir) as unfinished:
        if arguments.adapter is None:
            config, processor = open_processor(arguments.model)
            check_fits_onnx(config)
            graph = VisualTokensGraph(load_model(arguments.model, config, dtype=torch.float32))
            config.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
        else:
            adapter = LangBridgeAdapter.from_pretrained(arguments.adapter)
            model, processor = adapter.join(arguments.vision_tower)
            check_fits_onnx(model.config)
            graph = CoefficientsGraph(model.float())
            adapter.vocabulary.save(unfinished / VOCABULARY_FILE)
        difference = write_onnx(graph, processor.image_processor, unfinished)
    path = arguments.output_dir / "onnx" / graph.file
    print(f"The graph's {graph.output} differ from the LangBridge's by at most {difference}.")
    print(f"The graph, of {path.stat().st_size / 1e6:.1f} MB, is {path}; docs/onnx.md says how to run it.")


def export_llava(arguments: argparse.Namespace) -> None:
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


def main() -> None:
    arguments = parse_arguments()
    (export_onnx if arguments.format == "onnx" else export_llava)(arguments)


if __name__ == "__main__":
    run_script(main)

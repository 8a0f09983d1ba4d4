# SPDX-License-Identifier: Apache-2.0
"""Lifts a LLaVA into a LangBridge of words that computes the same function, so that it can be read and transferred.

A LLaVA-NeXT becomes a LangBridge-NeXT.
"""

import argparse
from pathlib import Path

from trainer.command_line import DTYPES, run_script
from trainer.number_arguments import at_least


EPILOG = """examples:
  python scripts/lift.py --model llava-hf/llava-1.5-7b-hf --output_dir llava-1.5-7b-langbridge

  With words of your own, and smaller coefficients at the cost of accuracy:
    python scripts/lift.py --model my-llava --output_dir my-langbridge --vocabulary words.json --ridge 0.01

Nothing is trained: the vocabulary head is the pseudo-inverse of the words' embeddings. The logits stay the same where
the words span the language model's embedding space, which takes at least as many as the language model is wide; it is
said how many dimensions they span, how much the visual tokens lose, and how far the logits of the model that was
written, loaded again, are from the LLaVA's for a picture and a question. See docs/lifting.md.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        required=True,
        help="folder or Hub id of a LLaVA 1.5 or a LLaVA-NeXT in transformers' format, or of a LangBridge without "
        "words (mlp, linear)",
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="FOLDER", help="the folder to write; it must not exist yet"
    )
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="a shared vocabulary, as scripts/create_vocab_subset.py writes it (default: Qwen 2's and Llama 3's)",
    )
    parser.add_argument(
        "--vocab_size", type=at_least(1), metavar="V", help="how many words (default: 19200, or as many as there are)"
    )
    parser.add_argument(
        "--ridge",
        type=at_least(0, float),
        default=0.0,
        metavar="LAMBDA",
        help="shrinks the coefficients at the cost of accuracy; in units of the mean squared singular value of the "
        "words' embeddings (default: 0)",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="what to lift and write it in (default: the LLaVA's own)"
    )
    arguments = parser.parse_args()
    from transformers import AutoModelForImageTextToText

    from modeling_langbridge import lift
    from modeling_langbridge.conversion.from_llava import load_llava
    from modeling_langbridge.conversion.logit_probe import compare_logits, probe
    from modeling_langbridge.conversion.opening import choose_words
    from modeling_langbridge.utils.files import atomic_folder

    with atomic_folder(arguments.output_dir) as unfinished:
        llava, llava_processor = load_llava(arguments.model, arguments.dtype)
        words = choose_words(llava_processor.tokenizer, arguments.vocabulary, arguments.vocab_size)
        model, processor, loss = lift(llava, llava_processor, words, arguments.ridge)
        print(loss)
        expected = probe(llava, processor)
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        del llava, model  # a second copy of the weights comes now
        written = AutoModelForImageTextToText.from_pretrained(unfinished)
        logits = compare_logits(probe(written, type(processor).from_pretrained(unfinished)), expected)
    print(
        f"{arguments.output_dir} holds the LangBridge. Loaded again, its logits for a picture and a question differ "
        f"from the LLaVA's by at most {logits.difference:.2g} (the largest is {logits.largest:.3g})."
    )


if __name__ == "__main__":
    run_script(main)

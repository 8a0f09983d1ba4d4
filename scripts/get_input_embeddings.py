# SPDX-License-Identifier: Apache-2.0
"""Writes the words' rows E (V, d) of a language model's input embedding to a safetensors file."""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_langbridge import SharedVocabulary
from modeling_langbridge.utils.files import first_line


EPILOG = """example:
  python scripts/create_vocab_subset.py --vocab_size 19200 --model_name llama3
  python scripts/get_input_embeddings.py --model_name meta-llama/Meta-Llama-3-8B-Instruct \\
      --vocab_path vocab/19200_llama3.json --output_dir ./embeddings

Training needs no such file: a LangBridge model reads E from its own language model. It is for looking at E, and for
comparing two models' words. It holds the tensors `embeddings` (V, d) in the checkpoint's dtype and `token_ids` (V,),
and in its metadata `surfaces`, a JSON list: row i belongs to surface i in every model's file of one vocabulary.

  with safetensors.safe_open("embeddings/Meta-Llama-3-8B-Instruct_19200.safetensors", "pt") as file:
      embeddings, surfaces = file.get_tensor("embeddings"), json.loads(file.metadata()["surfaces"])
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name", required=True, help="the language model: Hub id or local folder")
    parser.add_argument("--vocab_path", required=True, type=Path, help="what scripts/create_vocab_subset.py wrote")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder for {model}_{V}.safetensors")
    args = parser.parse_args()

    try:
        vocabulary = SharedVocabulary.from_file(args.vocab_path)
    except (OSError, ValueError) as error:
        sys.exit(f"error: --vocab_path {error}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.model_name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(args.model_name, dtype="auto", trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        sys.exit(
            f"error: --model_name {args.model_name!r} must be a Hub id or a local folder that holds a language model "
            f"and its tokenizer ({reason})"
        )

    try:
        token_ids = torch.tensor(vocabulary.token_ids(tokenizer))  # (V,)
    except ValueError as error:
        sys.exit(f"error: {error}, or scripts/create_vocab_subset.py --model_name {args.model_name}")
    embedding = model.get_input_embeddings()
    if token_ids.max() >= embedding.num_embeddings:
        sys.exit(
            f"error: the tokenizer of {args.model_name} has ids up to {token_ids.max()}, but its model has "
            f"{embedding.num_embeddings} embedding rows: the two do not belong together"
        )
    with torch.inference_mode():
        embeddings = embedding(token_ids)  # (V, d)

    output = args.output_dir / f"{Path(args.model_name).resolve().name}_{len(vocabulary)}.safetensors"
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    metadata = {"surfaces": json.dumps(vocabulary.surfaces, ensure_ascii=False), "model_name": args.model_name}
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: --output_dir {args.output_dir} cannot be made: {error}")
    try:
        save_file({"embeddings": embeddings, "token_ids": token_ids}, unfinished, metadata=metadata)
        os.replace(unfinished, output)
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{output}: embeddings {tuple(embeddings.shape)}, {str(embeddings.dtype).removeprefix('torch.')}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Writes the words' rows E (V, d) of a language model's input embedding to a safetensors file."""

import argparse
import json
from pathlib import Path

from trainer.command_line import check_new_file, run_script


EPILOG = """example:
  python scripts/create_vocab_subset.py --vocab_size 19200 --language_model llama3
  python scripts/get_input_embeddings.py --language_model meta-llama/Meta-Llama-3-8B-Instruct \\
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
    parser.add_argument(
        "--language_model", "--model_name", required=True, help="the language model: Hub id or local folder"
    )
    parser.add_argument("--vocab_path", required=True, type=Path, help="what scripts/create_vocab_subset.py wrote")
    parser.add_argument("--output_dir", required=True, type=Path, help="folder for {model}_{V}.safetensors")
    arguments = parser.parse_args()
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    from modeling_langbridge import SharedVocabulary
    from modeling_langbridge.adapter.loading import open_language_model
    from modeling_langbridge.utils.files import atomic_file, first_line

    name = arguments.language_model
    try:
        vocabulary = SharedVocabulary.from_file(arguments.vocab_path)
    except (OSError, ValueError) as error:
        raise ValueError(f"--vocab_path {error}") from error
    output = arguments.output_dir / f"{Path(name).resolve().name}_{len(vocabulary)}.safetensors"
    check_new_file(output, "--output_dir")
    try:
        model = open_language_model(name, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--language_model {name!r} must be a Hub id or a local folder that holds a language model and its "
            f"tokenizer ({first_line(error)})."
        ) from error
    try:
        token_ids = torch.tensor(vocabulary.token_ids(tokenizer))  # (V,)
    except ValueError as error:
        raise ValueError(f"{error}, or scripts/create_vocab_subset.py --language_model {name}") from error
    embedding = model.get_input_embeddings()
    if token_ids.max() >= embedding.num_embeddings:
        raise ValueError(
            f"The tokenizer of {name} has ids up to {token_ids.max()}, but its model has {embedding.num_embeddings} "
            "embedding rows: the two do not belong together."
        )
    with torch.inference_mode():
        embeddings = embedding(token_ids)  # (V, d)

    metadata = {"surfaces": json.dumps(vocabulary.surfaces, ensure_ascii=False), "model_name": name}
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as unfinished:
        save_file({"embeddings": embeddings, "token_ids": token_ids}, unfinished, metadata=metadata)
    print(f"{output}: embeddings {tuple(embeddings.shape)}, {str(embeddings.dtype).removeprefix('torch.')}")


if __name__ == "__main__":
    run_script(main)

# SPDX-License-Identifier: Apache-2.0
"""
What this package does where it is imported: joins parts, saves the result, and loads checkpoints with its own classes.

    python -I use_package.py PROJECT FOLDER

FOLDER is one of `save_checkpoint`'s. A failure ends it with a traceback.
"""

import sys
import tempfile
from pathlib import Path

import torch


def main() -> None:
    project, folder = sys.argv[1], Path(sys.argv[2])
    sys.path.insert(0, project)
    from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor

    input_ids = torch.arange(4, 12)[None]
    processor = LangBridgeProcessor.from_vision_text_pretrained(str(folder / "tower"), str(folder / "language_model"))
    saved = LangBridgeForConditionalGeneration.from_pretrained(folder / "checkpoint")
    composed = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        str(folder / "tower"),
        str(folder / "language_model"),
        saved.model.get_word_ids(),
        processor,
        projector_hidden_size=saved.config.projector_hidden_size,
    )
    with torch.no_grad(), tempfile.TemporaryDirectory() as again:
        composed.save_pretrained(again)
        processor.save_pretrained(again)
        LangBridgeProcessor.from_pretrained(again)
        for model in (composed, LangBridgeForConditionalGeneration.from_pretrained(again)):
            # Of text alone: each new adapter is another random one.
            torch.testing.assert_close(model(input_ids=input_ids).logits, saved(input_ids=input_ids).logits)


if __name__ == "__main__":
    main()

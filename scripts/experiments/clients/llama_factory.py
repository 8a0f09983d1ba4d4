# SPDX-License-Identifier: Apache-2.0
"""
LLaMA-Factory, which is told what a LangBridge is made of and how it is prompted.

    python llama_factory.py CONFIG.yaml

The configuration is LLaMA-Factory's own, with `template: langbridge`. This file imports nothing of LangBridge.
"""

from dataclasses import replace

from llamafactory.data.mm_plugin import get_mm_plugin
from llamafactory.data.template import TEMPLATES
from llamafactory.model.model_utils.visual import _register_composite_model
from llamafactory.train.tuner import run_exp


# Of the language model, here Qwen 2: prompts must be those of the checkpoint's own chat template.
LANGUAGE_MODEL = replace(TEMPLATES["qwen"], default_system="You are a helpful assistant.")


def main() -> None:
    TEMPLATES["langbridge"] = replace(LANGUAGE_MODEL, mm_plugin=get_mm_plugin("llava", image_token="<image>"))
    # What freeze_vision_tower, freeze_multi_modal_projector and freeze_language_model are about.
    _register_composite_model("langbridge", projector_keys=["model.multi_modal_projector", "model.vocabulary_head"])
    run_exp()


if __name__ == "__main__":
    main()

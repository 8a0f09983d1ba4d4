# SPDX-License-Identifier: Apache-2.0
"""
What ms-swift must be told of a LangBridge: what it is made of, and how it is prompted.

    swift sft --external_plugins ms_swift.py --model my-langbridge --use_hf true …

This file imports nothing of LangBridge.
"""

from swift.model import ModelGroup, ModelMeta, MultiModelKeys, register_model, register_model_arch
from swift.template import register_template
from swift.template.templates.llava import LlavaHfTemplate
from swift.template.templates.qwen import QwenTemplateMeta


# What --freeze_vit, --freeze_aligner and --freeze_llm are about.
PARTS = MultiModelKeys(
    "langbridge",
    vision_tower="model.vision_tower",
    aligner=["model.multi_modal_projector", "model.vocabulary_head"],
    language_model=["model.language_model", "lm_head"],
)
# Of the language model, here Qwen 2: prompts must be those of the checkpoint's own chat template.
TEMPLATE = QwenTemplateMeta("langbridge", template_cls=LlavaHfTemplate, agent_template=None)
MODEL = ModelMeta(
    "langbridge",
    [ModelGroup([])],
    template="langbridge",
    model_arch="langbridge",
    architectures=["LangBridgeForConditionalGeneration"],
    is_multimodal=True,
)

register_model_arch(PARTS)
register_template(TEMPLATE)
register_model(MODEL)

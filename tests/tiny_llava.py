# SPDX-License-Identifier: Apache-2.0
"""Tiny random stock LLaVAs, and LLaVA-NeXTs, with their processors."""

import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
)

from modeling_langbridge import SharedVocabulary


GRID = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
TEMPLATE = (
    "{% for message in messages %}{{ message.role | upper }}: {% for block in message.content %}"
    "{% if block.type == 'image' %}<image>\n{% else %}{{ block.text }}{% endif %}{% endfor %} {% endfor %}ASSISTANT:"
)


def make_llava(
    vision: str, text: str, model_class=LlavaForConditionalGeneration, **fields
) -> tuple[LlavaForConditionalGeneration | LlavaNextForConditionalGeneration, LlavaProcessor | LlavaNextProcessor]:
    """A LLaVA with the given tower, whose language model, projector and newline are far from zero everywhere."""
    tower, language_model = AutoModel.from_pretrained(vision), AutoModelForCausalLM.from_pretrained(text)
    tokenizer = AutoTokenizer.from_pretrained(text)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    has_cls = tower.config.model_type == "clip_vision_model"
    fields = {"vision_feature_select_strategy": "default" if has_cls else "full", **fields}
    image_processor, processor_class = AutoImageProcessor.from_pretrained(vision), LlavaProcessor
    if model_class is LlavaNextForConditionalGeneration:
        fields["image_grid_pinpoints"], processor_class = GRID, LlavaNextProcessor
        names = ("size", "crop_size", "image_mean", "image_std")
        image_processor = LlavaNextImageProcessorPil(
            image_grid_pinpoints=GRID, **{name: getattr(image_processor, name) for name in names}
        )
    config = model_class.config_class(
        vision_config=tower.config,
        text_config=language_model.config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16 + (has_cls and fields["vision_feature_select_strategy"] == "full"),
        **fields,
    )
    llava = model_class(config).eval()
    torch.manual_seed(0)
    for parameter in llava.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    llava.model.vision_tower.load_state_dict(tower.state_dict())
    processor = processor_class(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy=fields["vision_feature_select_strategy"],
        chat_template=TEMPLATE,
        num_additional_image_tokens=int(has_cls),
    )
    return llava, processor


def all_words(processor: LlavaProcessor) -> SharedVocabulary:
    return SharedVocabulary.build([processor.tokenizer], [])

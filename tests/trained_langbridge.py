# SPDX-License-Identifier: Apache-2.0
"""LangBridges whose every weight counts, saved, and what a saved model says of a picture."""

from pathlib import Path

import torch
from tiny_parts import SENTENCES, ask, make_image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from modeling_langbridge import LangBridgeForConditionalGeneration, SharedVocabulary


H, D = 20, 32  # the widths of the projector and of the language models


def save_trained(
    vision: str,
    text: str,
    folder: Path,
    dtype=torch.float32,
    model_class=LangBridgeForConditionalGeneration,
    image_processor=None,
    **fields,
) -> Path:
    """A LangBridge all of whose adapter has moved, biases too, and whose language model heeds the picture."""
    processor = model_class.processor_class.from_vision_text_pretrained(
        vision, text, image_processor, words_per_image=fields.pop("words_per_image", None)
    )
    model = model_class.from_vision_text_pretrained(
        vision,
        AutoModelForCausalLM.from_pretrained(text),
        SharedVocabulary.build([processor.tokenizer], SENTENCES, 60),
        processor,
        **{"projector_hidden_size": H, **fields},
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[1] in ("multi_modal_projector", "vocabulary_head", "image_newline"):
                parameter.normal_(std=0.3)
            elif "language_model" in name and parameter.dim() == 2:
                parameter.mul_(5)
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def see(model, processor, colour: str = "green") -> tuple[torch.Tensor, str]:
    """The logits for a picture and a question that the script does not ask, and the answer."""
    inputs = processor.apply_chat_template(
        ask(make_image(colour), "where is the green dog?"),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(dtype=model.dtype)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return model(**inputs).logits.float(), processor.decode(answer)


def open_folder(folder: Path, **options):
    return AutoModelForImageTextToText.from_pretrained(folder, **options), AutoProcessor.from_pretrained(folder)

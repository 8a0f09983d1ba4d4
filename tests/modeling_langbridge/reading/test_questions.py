# SPDX-License-Identifier: Apache-2.0
"""A question about images begins as training's conversations do, with one beginning-of-text token."""

from tiny_parts import make_image, make_tokenizer
from tokenizers.processors import TemplateProcessing

from modeling_langbridge import LangBridgeProcessor
from modeling_langbridge.reading.questions import prepare_question


def test_the_beginning_of_text_is_written_once_where_template_and_tokenizer_both_write_it(vision):
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, "unused", tokenizer=tokenizer)
    input_ids = prepare_question(processor, [make_image(), make_image()], "a dog?")["input_ids"]  # (2, sequence)
    assert input_ids[:, 0].tolist() == [tokenizer.bos_token_id] * 2
    assert (input_ids == tokenizer.bos_token_id).sum(1).tolist() == [1, 1]


def test_each_image_has_the_same_question_and_its_own_pixels(processor):
    images = [make_image("red"), make_image("blue")]
    inputs = prepare_question(processor, images, "what is it?")
    assert inputs["input_ids"][0].equal(inputs["input_ids"][1])
    assert inputs["pixel_values"].equal(processor.image_processor(images, return_tensors="pt")["pixel_values"])
    assert processor.decode(inputs["input_ids"][0]).count("what is it?") == 1

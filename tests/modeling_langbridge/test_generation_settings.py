# SPDX-License-Identifier: Apache-2.0
"""Generation settings of a model that is made of others: what it takes from them, and what its use asks for."""

import pytest
import torch
from tiny_parts import ask, make_image
from transformers import AutoModelForCausalLM, AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

from modeling_langbridge import (
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
    lift,
    transfer,
)
from trainer.data.conversations import ConversationEncoder


# Turns end with a token of their own, as in most chat models; a base model's end of text is another.
TURNS = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


@pytest.fixture
def base_model(text):
    """A base language model whose tokenizer has a chat template, as Qwen2-0.5B's."""
    tokenizer = AutoTokenizer.from_pretrained(text)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|turn|>", "<|end|>"]})
    tokenizer.chat_template = TURNS
    language_model = AutoModelForCausalLM.from_pretrained(text)
    language_model.generation_config.update(do_sample=True, temperature=0.1, max_length=5, repetition_penalty=1.5)
    return language_model, tokenizer


@pytest.fixture
def of_a_base_model(vision, base_model):
    language_model, tokenizer = base_model
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, language_model, tokenizer=tokenizer)
    words = SharedVocabulary([" dog", " ball", " a"])
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, language_model, words, processor, projector_hidden_size=40
    )
    return model, processor


def ends(model) -> list[int]:
    eos = model.generation_config.eos_token_id
    return eos if isinstance(eos, list) else [eos]


def test_an_answer_ends_with_what_training_teaches(of_a_base_model):
    model, processor = of_a_base_model
    sample = ConversationEncoder(processor).encode({"prompt": "what is it?", "completion": "a dog"})
    taught = [label for label in sample["labels"] if label != -100]
    end = processor.tokenizer.convert_tokens_to_ids("<|end|>")
    assert end in taught and end in ends(model)
    assert processor.tokenizer.eos_token_id in ends(model)


def test_sampling_and_limits_of_the_language_model_are_left_behind(of_a_base_model):
    model, _ = of_a_base_model
    settings = model.generation_config.to_diff_dict()
    assert not {"do_sample", "temperature", "max_length", "repetition_penalty"} & settings.keys()


def test_another_language_model_ends_its_answers_too(vision, text, processor, base_model):
    language_model, tokenizer = base_model
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, SharedVocabulary([" dog", " ball", " a"]), processor, projector_hidden_size=40
    )
    moved, its_processor = transfer(model, processor, language_model, tokenizer=tokenizer)
    assert its_processor.tokenizer.convert_tokens_to_ids("<|end|>") in ends(moved)
    assert its_processor.tokenizer.padding_side == "left"


def test_a_lifted_llava_keeps_its_own_settings_and_ends_its_answers(of_a_base_model):
    langbridge, processor = of_a_base_model
    config = LlavaConfig(
        vision_config=langbridge.config.vision_config,
        text_config=langbridge.config.text_config,
        image_token_index=processor.image_token_id,
        image_seq_length=16,
        vision_feature_select_strategy=langbridge.config.vision_feature_select_strategy,
    )
    llava = LlavaForConditionalGeneration(config)
    llava.generation_config.update(repetition_penalty=1.3, eos_token_id=processor.tokenizer.eos_token_id)
    lifted, its_processor, _ = lift(llava, processor, SharedVocabulary([" dog", " ball", " a"]))
    assert lifted.generation_config.repetition_penalty == 1.3
    assert processor.tokenizer.convert_tokens_to_ids("<|end|>") in ends(lifted)
    assert llava.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_batched_answers_equal_single_ones_though_the_tokenizer_says_nothing_of_its_side(model, processor):
    questions = ["what?", "what is in the picture near the white boat and the bench?"]
    messages = [ask(make_image(), question) for question in questions]
    model.eval()

    def answers(messages) -> list[list[int]]:
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        output = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=-1)
        return output[:, inputs["input_ids"].shape[1] :].tolist()

    torch.manual_seed(0)
    assert answers(messages) == [answers([message])[0] for message in messages]

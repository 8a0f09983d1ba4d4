# SPDX-License-Identifier: Apache-2.0
"""Every supported language model keeps its own behaviour inside a LangBridge."""

import pytest
import torch
from tiny_parts import LANGUAGE_MODELS, SENTENCES, ask, make_image, save_language_model
from transformers import AutoModelForCausalLM, CohereConfig, CohereForCausalLM

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def parts(request, vision, tmp_path_factory):
    text = save_language_model(request.param, tmp_path_factory.mktemp(request.param))
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    return text, processor, model


def test_text_only_logits_equal_the_bare_language_models(parts):
    text, processor, model = parts
    inputs = processor.tokenizer(SENTENCES[:3], return_tensors="pt", padding=True)
    bare = AutoModelForCausalLM.from_pretrained(text)
    torch.testing.assert_close(model(**inputs).logits, bare(**inputs).logits, atol=1e-6, rtol=1e-5)


def test_generation_with_and_without_cache_is_equal(parts):
    _, processor, model = parts
    inputs = processor.apply_chat_template(
        ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    cached, uncached = (
        model.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=use_cache) for use_cache in (True, False)
    )
    assert cached.shape[1] > inputs.input_ids.shape[1]
    assert torch.equal(cached, uncached)


def test_saving_and_reloading_keeps_logits_and_tied_embeddings(parts, tmp_path):
    _, processor, model = parts
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    model.save_pretrained(tmp_path)
    reloaded = LangBridgeForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)
    tied = reloaded.lm_head.weight is reloaded.get_input_embeddings().weight
    assert tied == model.config.text_config.tie_word_embeddings


def test_resizing_the_embeddings_keeps_old_logits_words_and_ties(parts, tmp_path):
    _, processor, model = parts
    model.save_pretrained(tmp_path)
    resized = LangBridgeForConditionalGeneration.from_pretrained(tmp_path)
    resized.resize_token_embeddings(530)
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    logits = resized(**inputs).logits
    assert logits.shape[-1] == 530
    torch.testing.assert_close(logits[..., :512], model(**inputs).logits)
    tied = resized.lm_head.weight is resized.get_input_embeddings().weight
    assert tied == model.config.text_config.tie_word_embeddings


def test_a_language_model_that_scales_its_logits_is_refused(vision, tmp_path):
    text = save_language_model("llama2", tmp_path)
    config = CohereConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=512
    )
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    with pytest.raises(ValueError, match="`cohere` are not supported: they scale their logits"):
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, CohereForCausalLM(config).eval(), [100, 101], processor=processor, projector_hidden_size=8
        )

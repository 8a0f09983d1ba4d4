# SPDX-License-Identifier: Apache-2.0
"""What a user may get wrong when joining two parts, and the configuration itself."""

import json

import pytest
import torch
from tiny_parts import make_tokenizer, save_language_model
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, Qwen2Config

from modeling_langbridge import LangBridgeConfig, LangBridgeForConditionalGeneration, SharedVocabulary
from modeling_langbridge.modeling_langbridge import LangBridgeMultiModalProjector
from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead


def test_ids_outside_the_embedding_are_refused(vision, text, processor):
    with pytest.raises(
        ValueError, match="holds 2 token ids outside the language model's 512 embeddings, the first is 600"
    ):
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, [100, 600, 700], processor=processor, projector_hidden_size=8
        )


def test_a_vocabulary_made_for_another_tokenizer_is_refused(vision, text, processor):
    vocabulary = SharedVocabulary([" dog", " zeppelin", " quark"])
    with pytest.raises(ValueError, match="zeppelin"):
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, vocabulary, processor=processor, projector_hidden_size=8
        )


def test_a_shared_vocabulary_chooses_the_words_in_its_order(vision, text, processor):
    tokenizer = make_tokenizer()
    vocabulary = SharedVocabulary([" ball", " dog", " a"])
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor=processor, projector_hidden_size=8
    )
    ids = model.model.vocabulary_head.token_ids.tolist()
    assert [tokenizer.decode(token_id) for token_id in ids] == [" ball", " dog", " a"]
    assert model.config.bridge_vocab_size == 3


def test_a_multimodal_language_model_part_is_refused(vision, model, processor):
    with pytest.raises(ValueError, match="`text` is itself a multimodal model"):
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, model, [100], processor=processor, projector_hidden_size=8
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("coefficient_activation", "sparsemax"),
        ("projector_hidden_size", 0),
        ("bridge_vocab_size", 0),
        ("bridge_vocab_size", 200000),
        ("vision_feature_select_strategy", "map"),
    ],
)
def test_a_field_with_an_impossible_value_is_named(field, value):
    with pytest.raises(Exception, match=field):
        LangBridgeConfig(vision_config=CLIPVisionConfig(), text_config=Qwen2Config(), **{field: value})


def test_the_configuration_survives_saving(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    reloaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(reloaded, LangBridgeConfig)
    for field in ("projector_hidden_size", "bridge_vocab_size", "coefficient_activation", "image_token_index"):
        assert getattr(reloaded, field) == getattr(model.config, field)
    assert reloaded.vision_config.to_dict() == model.config.vision_config.to_dict()


def test_a_configuration_names_parts_of_the_hub_but_no_folder_of_this_machine(vision, text, processor, tmp_path):
    language_model = AutoModelForCausalLM.from_pretrained(text)
    language_model.config.name_or_path = "someone/language-model"  # as when it comes from there
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, language_model, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["text_config"]["_name_or_path"] == "someone/language-model"
    assert vision not in json.dumps(saved) and text not in json.dumps(saved)


def test_at_the_papers_sizes_a_fresh_visual_token_is_about_as_long_as_a_word(model):
    config = LangBridgeConfig(
        vision_config=CLIPVisionConfig(hidden_size=1024, num_attention_heads=16),
        text_config=Qwen2Config(hidden_size=896),
    )
    projector, head = LangBridgeMultiModalProjector(config), LangBridgeVocabularyHead(config)
    for module in (*projector.modules(), *head.modules()):
        model._init_weights(module)
    words = torch.randn(19200, 896) * 0.02
    with torch.no_grad():
        visual = head.get_coefficients(projector(torch.randn(8, 1024))) @ words  # (8, 896)
    assert 1 / 3 < visual.norm(dim=-1).mean() / words.norm(dim=-1).mean() < 3


def test_fresh_distributions_do_not_become_uniform_with_the_number_of_words(model):
    # Learning starts from differences between words: logits of any V are to spread alike.
    spreads = []
    for V in (100, 10_000):
        config = LangBridgeConfig(
            vision_config=CLIPVisionConfig(),
            text_config=Qwen2Config(),
            projector_hidden_size=64,
            bridge_vocab_size=V,
            coefficient_activation="gated_softmax",
        )
        head = LangBridgeVocabularyHead(config)
        model._init_weights(head)
        with torch.no_grad():
            spreads.append(head.get_coefficients(torch.randn(8, 64)).log().std(-1).mean())
    torch.testing.assert_close(*spreads, rtol=0.2, atol=0)


@pytest.mark.parametrize("name", ["qwen2", "llama2"])  # tied and untied
def test_the_same_parts_make_the_same_model_though_tokens_are_added(vision, tmp_path, name):
    text = save_language_model(name, tmp_path, vocab_size=len(make_tokenizer()))
    models = [
        LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, list(range(100, 160)), projector_hidden_size=8
        )
        for _ in range(2)
    ]
    for weights in zip(*((m.get_input_embeddings().weight, m.lm_head.weight) for m in models), strict=True):
        old, added = weights[0].detach().tensor_split([len(make_tokenizer())])
        assert len(added) > 0
        torch.testing.assert_close(added, old.mean(0).expand_as(added))
        assert weights[0].equal(weights[1])


def test_the_model_never_writes_an_image_placeholder(model, processor):
    with torch.no_grad():
        model.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(512))
        model.get_output_embeddings().bias[processor.image_token_id] = 100.0
    inputs = processor(text="what is in the picture?", return_tensors="pt")
    assert processor.image_token_id not in model.generate(**inputs, max_new_tokens=5, do_sample=False)

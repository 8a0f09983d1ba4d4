# SPDX-License-Identifier: Apache-2.0
"""Small language models: tokenizers of both spellings, the documents, training and saving."""

import random
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from experiments.small_language_model import (
    caption_documents,
    content_words,
    jumbled_words,
    train_language_model,
    train_tokenizer,
    word_prompt,
)


CAPTIONS = [
    f"A {colour} {animal} runs over the {ground}."
    for colour in ("red", "black", "white", "brown")
    for animal in ("dog", "cat", "horse")
    for ground in ("grass", "snow", "beach")
]


@pytest.fixture(scope="module", params=["byte_level", "metaspace"])
def tokenizer(request):
    return train_tokenizer(CAPTIONS, 400, request.param)


def test_text_survives_encoding_and_decoding_even_in_unseen_letters(tokenizer):
    for text in ("A red dog\nÉtoile 猫 😀<eos>", " dog", "a  b"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("kind, spelling", [("byte_level", "Ġdog"), ("metaspace", "▁dog")])
def test_each_kind_has_its_own_spelling_of_a_word(kind, spelling):
    tokenizer = train_tokenizer(CAPTIONS, 400, kind)
    assert tokenizer.convert_ids_to_tokens(tokenizer(" dog")["input_ids"]) == [spelling]


def test_prompt_and_answer_tokenized_apart_are_the_tokens_of_the_document(tokenizer):
    prompt, answer = " dog grass\n", "A dog on the grass."
    apart = tokenizer(prompt)["input_ids"] + tokenizer(answer)["input_ids"]
    assert apart == tokenizer(prompt + answer)["input_ids"]


def test_byte_tokens_are_no_special_tokens(tokenizer):
    ids = tokenizer("é\n")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "é\n"


def test_special_tokens_are_distinct_and_survive_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = [loaded.unk_token_id, loaded.pad_token_id, loaded.eos_token_id]
    assert None not in ids and len(set(ids)) == 3
    assert loaded("A red dog")["input_ids"] == tokenizer("A red dog")["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template


def test_chat_template_is_question_newline_answer_end(tokenizer):
    question, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    assert tokenizer.apply_chat_template([question, answer], tokenize=False) == "Q\nA<eos>"
    assert tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True) == "Q\n"


def test_tokenizer_refuses_a_size_without_room_and_an_unknown_kind():
    with pytest.raises(ValueError, match="at least 259"):
        train_tokenizer(CAPTIONS, 100, "byte_level")
    with pytest.raises(ValueError, match="'wordpiece'"):
        train_tokenizer(CAPTIONS, 400, "wordpiece")


def test_content_words_leave_out_what_shows_nothing():
    assert content_words("A dog, the black DOG, is on a beach.") == ["dog", "black", "beach"]


def kind_of(prefix: str, caption: str) -> str:
    if prefix in ("", caption):
        return "copy" if prefix else "empty"
    return "words" if sorted(prefix.split()) == sorted(content_words(caption)) else "jumble"


def test_a_jumble_is_mostly_made_of_the_right_words_among_others_that_might_have_been():
    right, others = ["dog", "beach"], ["cat", "grass"]
    for seed in range(50):
        jumble = jumbled_words(right, others, random.Random(seed))
        assert 6 <= len(jumble) <= 48 and set(jumble) <= {*right, *others}
        assert sum(word in right for word in jumble) >= len(jumble) // 2
    assert set(jumbled_words(right, [], random.Random(0))) <= set(right)
    assert jumbled_words([], others, random.Random(0)) == []


def test_the_others_of_a_jumble_come_from_captions_that_share_a_word_with_it():
    captions = ["A dog on a beach."] * 20 + ["A dog in snow."] * 20 + ["A red bus."] * 20
    for document in caption_documents(captions, seed=0):
        prefix, caption = document.split("\n")
        if caption == "A red bus." and prefix != caption:
            assert set(prefix.split()) <= {"red", "bus"}
    prefixes = {document.split("\n")[0] for document in caption_documents(captions, seed=0)}
    assert any({"beach", "snow"} <= set(prefix.split()) for prefix in prefixes)


def test_documents_end_in_their_caption_and_hold_every_kind_of_prefix():
    captions = CAPTIONS * 5
    documents = caption_documents(captions, seed=0)
    prefixes = [document.split("\n") for document in documents]
    assert [caption for _, caption in prefixes] == captions
    kinds = Counter(kind_of(prefix, caption) for prefix, caption in prefixes)
    assert kinds.keys() == {"empty", "copy", "words", "jumble"} and min(kinds.values()) > len(captions) / 8
    assert documents == caption_documents(captions, seed=0) != caption_documents(captions, seed=1)


def test_the_first_word_of_a_prompt_is_spelt_as_the_others_are(tokenizer):
    dog, cat = tokenizer(word_prompt(["dog", "cat"]))["input_ids"], tokenizer(word_prompt(["cat", "dog"]))["input_ids"]
    assert sorted(dog) == sorted(cat)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_language_model_learns_its_captions_and_is_an_ordinary_folder(family, tmp_path):
    kind, config_class = {"qwen2": ("byte_level", Qwen2Config), "llama": ("metaspace", LlamaConfig)}[family]
    tokenizer = train_tokenizer(CAPTIONS, 400, kind)
    config = config_class(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path / "model"
    train_language_model(
        config, tokenizer, [f"\n{c}" for c in CAPTIONS], folder, learning_rate=1e-2, max_steps=60, batch_size=12
    )

    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    model, loaded = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == loaded.eos_token_id
    prompt = loaded("\n", return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**prompt, do_sample=False, max_new_tokens=20)[0]
    assert answer[-1] == loaded.eos_token_id
    assert loaded.decode(answer, skip_special_tokens=True).strip() in CAPTIONS


def test_same_seed_trains_the_same_model(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, 300, "byte_level")
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        train_language_model(
            config, tokenizer, CAPTIONS, tmp_path / name, learning_rate=1e-2, max_steps=2, batch_size=4, seed=seed
        )
        weights.append(AutoModelForCausalLM.from_pretrained(tmp_path / name).get_input_embeddings().weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_language_model_refuses_another_vocabulary_and_a_used_folder(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, 300, "byte_level")
    with pytest.raises(ValueError, match="vocab_size is 77"):
        train_language_model(Qwen2Config(vocab_size=77), tokenizer, CAPTIONS, tmp_path / "model", learning_rate=1e-2)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        train_language_model(
            Qwen2Config(vocab_size=len(tokenizer)), tokenizer, CAPTIONS, tmp_path, learning_rate=1e-2, max_steps=1
        )
    assert (tmp_path / "notes.txt").read_text() == "mine"

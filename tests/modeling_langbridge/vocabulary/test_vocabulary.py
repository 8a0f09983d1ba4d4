# SPDX-License-Identifier: Apache-2.0
"""The shared vocabulary: one surface is found under every spelling, in one order, and nothing else enters."""

import json

import pytest
from paths import DATA
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modeling_langbridge import SharedVocabulary


REAL = DATA / "tokenizers"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real tokenizers at {REAL}: set LANGBRIDGE_DATA")
BYTE_LEVEL = ("qwen2", "llama3", "gpt2", "phi2", "smollm")
SENTENCEPIECE = ("llama2", "mistral")
CAPTIONS = [
    "a dog and a hotdog, a bulldog runs over the snow",
    "the dog sees a café; two dogs see 3 women.",
    "Ein Hund läuft über die Straße. 犬が走る 犬と猫",
    "a man, a woman and the dogs playing in the water",
] * 5


def train_byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's and Qwen's way: " dog" is spelt Ġdog, and a character may be cut into bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def train_sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """Llama 2's way: " dog" is spelt ▁dog, <0x..> bytes stand in for the rest, and decode drops the first space."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(CAPTIONS, trainers.BpeTrainer(vocab_size=150))
    learnt = json.loads(learner.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def train_unigram() -> PreTrainedTokenizerFast:
    """T5's way: a unigram model over ▁ pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def word_level(*words: str) -> PreTrainedTokenizerFast:
    """Whole words in the given order of ids, so that counts and ties can be worked out by hand."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


# GPT-2's published rule: printable bytes are written as themselves, the others as the letters from 256 on.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + n): byte for n, byte in enumerate(OTHERS)}


def byte_level_surface(token: str) -> str:
    """What a byte-level spelling stands for; U+FFFD for part of a character."""
    return bytes(BYTE_OF[letter] for letter in token).decode("utf-8", errors="replace")


def sentencepiece_surface(token: str) -> str:
    """What a SentencePiece piece stands for, by reading it; empty for a byte."""
    return "" if token.startswith("<0x") else token.replace("▁", " ")


TRAINED = {
    "byte-level BPE": (train_byte_level, byte_level_surface),
    "SentencePiece BPE": (train_sentencepiece_bpe, sentencepiece_surface),
    "Unigram": (train_unigram, sentencepiece_surface),
}


@pytest.fixture(scope="module")
def trained() -> dict[str, PreTrainedTokenizerFast]:
    return {name: train() for name, (train, _) in TRAINED.items()}


@pytest.fixture(scope="module")
def real() -> dict[str, PreTrainedTokenizerFast]:
    return {name: AutoTokenizer.from_pretrained(REAL / name) for name in BYTE_LEVEL + SENTENCEPIECE}


def expected_ids(tokenizer, surface_of) -> dict[str, int]:
    """Surface to id, by reading the spellings: the same answer as SharedVocabulary's on another road."""
    added = set(tokenizer.added_tokens_decoder)
    surfaces = {surface_of(token): i for token, i in tokenizer.get_vocab().items() if i not in added}
    return {surface: i for surface, i in surfaces.items() if surface and "\ufffd" not in surface}


def ids_found(tokenizer) -> dict[str, int]:
    vocabulary = SharedVocabulary.build([tokenizer], CAPTIONS)
    return dict(zip(vocabulary.surfaces, vocabulary.token_ids(tokenizer), strict=True))


# One surface, many spellings


@pytest.mark.parametrize("name", TRAINED)
def test_surfaces_are_the_tokens_under_any_spelling(trained, name):
    found = ids_found(trained[name])
    assert {" a", " dog", "g", "."} <= set(found)
    assert found == expected_ids(trained[name], TRAINED[name][1])


def test_one_vocabulary_for_three_families(trained):
    vocabulary = SharedVocabulary.build(trained.values(), CAPTIONS)
    assert {" a", " dog", "d", ","} <= set(vocabulary.surfaces)
    for name, tokenizer in trained.items():
        expected = expected_ids(tokenizer, TRAINED[name][1])
        assert vocabulary.token_ids(tokenizer) == [expected[surface] for surface in vocabulary.surfaces]


def test_a_word_with_and_without_its_space_are_two_surfaces(trained):
    tokenizer = trained["SentencePiece BPE"]
    with_space, without = SharedVocabulary([" a", "a"]).token_ids(tokenizer)
    assert tokenizer.decode([with_space]) == tokenizer.decode([without]) == "a"
    assert tokenizer.convert_ids_to_tokens([with_space, without]) == ["▁a", "a"]


@needs_data
@pytest.mark.parametrize("name", BYTE_LEVEL + SENTENCEPIECE)
def test_real_tokenizers_keep_every_ordinary_token(real, name):
    found = ids_found(real[name])
    assert found == expected_ids(real[name], byte_level_surface if name in BYTE_LEVEL else sentencepiece_surface)
    assert len(found) > 30000


# What never enters


def test_special_and_added_tokens_never_enter(trained):
    tokenizer = train_byte_level()
    before = SharedVocabulary.build([tokenizer], CAPTIONS)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "extra_special_tokens": ["<image>"]})
    tokenizer.add_tokens(["<tool>"])
    assert SharedVocabulary.build([tokenizer], [*CAPTIONS, "<image><pad><tool><|end|>"] * 9) == before
    assert not {"<|end|>", "<image>", "<pad>", "<tool>", "<unk>", "</s>"} & set(before.surfaces)
    for other in (trained["SentencePiece BPE"], trained["Unigram"]):
        assert not {"<unk>", "<s>", "</s>"} & set(SharedVocabulary.build([other], CAPTIONS).surfaces)


def test_an_ordinary_word_made_special_leaves():
    tokenizer = train_byte_level()
    assert "." in SharedVocabulary.build([tokenizer], CAPTIONS).surfaces
    tokenizer.pad_token = "."
    assert "." not in SharedVocabulary.build([tokenizer], CAPTIONS).surfaces


def test_byte_fallback_pieces_never_enter(trained):
    tokenizer = trained["SentencePiece BPE"]
    assert "\n" not in SharedVocabulary.build([tokenizer], CAPTIONS).surfaces  # only <0x0A> decodes to it
    byte_ids = set(tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in range(256)]))
    vocabulary = SharedVocabulary.build([tokenizer], CAPTIONS)
    assert not byte_ids & set(vocabulary.token_ids(tokenizer))  # <0x61> decodes to "a" and must not pass for it


def test_parts_of_a_character_never_enter(trained):
    tokenizer = trained["byte-level BPE"]
    surfaces = SharedVocabulary.build([tokenizer], CAPTIONS).surfaces
    assert len(tokenizer) - len(surfaces) > 128  # every byte above 127 is a token, and none is text
    assert not any("\N{REPLACEMENT CHARACTER}" in surface for surface in surfaces)


@pytest.mark.parametrize("unused_first", [True, False])
def test_of_two_tokens_with_one_surface_the_one_in_use_is_chosen(unused_first):
    pieces = [*pre_tokenizers.ByteLevel.alphabet(), "do", "Ġdo", "Ġdog"]
    pieces.insert(0 if unused_first else len(pieces), " dog")  # decodes like Ġdog, but nothing is encoded to it
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, [("d", "o"), ("Ġ", "do"), ("Ġdo", "g")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert tokenizer.decode([vocab[" dog"]]) == tokenizer.decode([vocab["Ġdog"]]) == " dog"
    assert SharedVocabulary([" dog"]).token_ids(tokenizer) == [vocab["Ġdog"]]
    assert SharedVocabulary.from_token_ids(tokenizer, [vocab["Ġdog"]]).surfaces == (" dog",)
    with pytest.raises(ValueError, match=f"among them {vocab[' dog']}: .* second spellings of a word"):
        SharedVocabulary.from_token_ids(tokenizer, [vocab[" dog"]])


# The ranking


def test_ranked_by_uses_then_by_ids_then_by_surface():
    first = word_level("cat", "dog", "owl", "bee", "ant", "elk", "fox", "only-here")
    second = word_level("ant", "bee", "dog", "cat", "owl", "fox", "elk")
    texts = ["owl owl owl dog", "owl dog <unk> only-here"]
    # owl 4 + 4 uses, dog 2 + 2; unused: the sums of ids are cat 1 + 4, ant 5 + 1, bee 4 + 2, elk 6 + 7, fox 7 + 6
    expected = SharedVocabulary([" owl", " dog", " cat", " ant", " bee", " elk", " fox"])
    assert SharedVocabulary.build([first, second], texts, 7) == expected
    assert SharedVocabulary.build([first, second], texts, 2) == expected.first(2)


def test_uses_are_added_up_over_all_tokenizers():
    whole = word_level("dog", "cat")
    lower_only = word_level("cat", "dog")
    lower_only.backend_tokenizer.normalizer = normalizers.Replace("Dog", "dog")  # sees dogs where the other sees none
    texts = ["Dog Dog Dog cat cat"]  # cat 2 + 2, dog 0 + 3
    assert SharedVocabulary.build([whole, lower_only], texts).surfaces == (" cat", " dog")
    assert SharedVocabulary.build([whole, lower_only, lower_only], texts).surfaces == (" cat", " dog")
    assert SharedVocabulary.build([lower_only, lower_only, whole], ["Dog Dog Dog cat"]).surfaces == (" dog", " cat")


def test_every_text_counts_even_of_many():
    texts = ["cat"] * 1500 + ["dog"] * 1501
    assert SharedVocabulary.build([word_level("cat", "dog")], iter(texts)).surfaces == (" dog", " cat")


def test_order_of_the_tokenizers_changes_nothing(trained):
    byte_level, sentencepiece, unigram = trained.values()
    vocabulary = SharedVocabulary.build([byte_level, sentencepiece, unigram], CAPTIONS, 30)
    assert vocabulary == SharedVocabulary.build([unigram, sentencepiece, byte_level], iter(CAPTIONS), 30)
    assert len(vocabulary) == 30


def test_building_from_nothing_says_what_is_wrong(trained):
    tokenizer = trained["Unigram"]
    with pytest.raises(ValueError, match="`tokenizers` is empty"):
        SharedVocabulary.build([], CAPTIONS, 10)
    with pytest.raises(ValueError, match="`texts` is a single string"):
        SharedVocabulary.build([tokenizer], "a dog", 10)
    with pytest.raises(ValueError, match=r"share \d+ surfaces .* 9999 cannot"):
        SharedVocabulary.build(trained.values(), CAPTIONS, 9999)
    with pytest.raises(ValueError, match="share 0 surfaces"):
        SharedVocabulary.build([word_level("dog"), word_level("cat")], CAPTIONS)


# In a tokenizer


def test_missing_surfaces_are_named_and_can_be_left_out(trained):
    tokenizer = trained["byte-level BPE"]
    vocabulary = SharedVocabulary([".", " xylophone", " dog", " zebra"])
    with pytest.raises(ValueError, match=r"2 of the 4 .* ' xylophone', ' zebra': leave them out .*`restricted_to"):
        vocabulary.token_ids(tokenizer)
    restricted = vocabulary.restricted_to(tokenizer)
    assert restricted.surfaces == (".", " dog")
    assert tokenizer.batch_decode([[i] for i in restricted.token_ids(tokenizer)]) == [".", " dog"]
    with pytest.raises(ValueError, match="none of the 1 surfaces"):
        SharedVocabulary([" zebra"]).restricted_to(tokenizer)


@pytest.mark.parametrize("name", TRAINED)
def test_ids_lead_back_to_their_words(trained, name):
    tokenizer = trained[name]
    vocabulary = SharedVocabulary.build([tokenizer], CAPTIONS)
    assert SharedVocabulary.from_token_ids(tokenizer, vocabulary.token_ids(tokenizer)) == vocabulary
    backwards = SharedVocabulary(reversed(vocabulary.surfaces))
    assert SharedVocabulary.from_token_ids(tokenizer, backwards.token_ids(tokenizer)) == backwards


def test_ids_that_are_no_ordinary_words_are_named(trained):
    tokenizer = train_byte_level()
    dog, byte = tokenizer.convert_tokens_to_ids(["Ġdog", "Ã"])
    end = tokenizer.eos_token_id
    with pytest.raises(ValueError, match=f"^4 of the 5 token ids .* {end}, {byte}, 9999, -1: special tokens"):
        SharedVocabulary.from_token_ids(tokenizer, [end, dog, byte, 9999, -1])
    with pytest.raises(ValueError, match="1 surfaces occur more than once.*' dog'"):
        SharedVocabulary.from_token_ids(tokenizer, [dog, dog])
    sentencepiece = trained["SentencePiece BPE"]
    with pytest.raises(ValueError, match="^1 of the 1 token ids"):
        SharedVocabulary.from_token_ids(sentencepiece, [sentencepiece.convert_tokens_to_ids("<0x61>")])


# As a value and as a file


def test_a_vocabulary_is_an_ordered_list_of_distinct_surfaces():
    vocabulary = SharedVocabulary([" a", "b", " c"])
    assert vocabulary.surfaces == (" a", "b", " c") and len(vocabulary) == 3
    assert vocabulary.first(2) == SharedVocabulary((" a", "b"))
    assert vocabulary != SharedVocabulary(["b", " a", " c"])
    for size in (0, -1, 4):
        with pytest.raises(ValueError, match="ask for 1 to 3"):
            vocabulary.first(size)
    for surfaces, complaint in [("dog", "single string"), ([], "at least one"), (["a", ""], "entry 1 is ''")]:
        with pytest.raises(ValueError, match=complaint):
            SharedVocabulary(surfaces)
    with pytest.raises(ValueError, match="1 surfaces occur more than once.*'a'"):
        SharedVocabulary(["a", " a", "a"])


def test_a_saved_vocabulary_comes_back_as_it_was(tmp_path):
    vocabulary = SharedVocabulary([" dog", "dog", "\n", "\r\n", '"', "\\", "犬", "  ", "\u2028", "\ufeff", "\u00a0é"])
    vocabulary.save(tmp_path / "new" / "vocabulary.json")
    assert SharedVocabulary.from_file(tmp_path / "new" / "vocabulary.json") == vocabulary
    assert '\n" dog",\n"dog",\n' in (tmp_path / "new" / "vocabulary.json").read_text(encoding="utf-8")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    SharedVocabulary([" dog"]).save(tmp_path / "vocabulary.json")
    with pytest.raises(UnicodeEncodeError):
        SharedVocabulary(["half a character: \ud83d"]).save(tmp_path / "vocabulary.json")
    assert SharedVocabulary.from_file(tmp_path / "vocabulary.json").surfaces == (" dog",)
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[\x22a\x22,", "is damaged, it is not JSON"),
        (b"\xff\xfe\x00", "is damaged, it is not JSON"),
        (b'{"\xc4\xa0dog": 5562}', "must hold a JSON list of token surfaces, not a dict"),
        (b'["a", 5]', "entry 1 is 5"),
        (b"[]", "needs at least one surface"),
        (b'["a", "b", "a"]', "more than once"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, content, complaint):
    path = tmp_path / "wrong.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"wrong.json .*{complaint}"):
        SharedVocabulary.from_file(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no vocabulary file .*absent.json"):
        SharedVocabulary.from_file(tmp_path / "absent.json")


# The vocabulary that ships


def test_the_shipped_vocabulary_is_large_enough_and_starts_with_what_captions_say():
    assert len(SharedVocabulary.qwen2_llama3()) == 19200
    whole = SharedVocabulary.qwen2_llama3(size=None)
    assert len(whole) >= 32000
    assert SharedVocabulary.qwen2_llama3(size=32000) == whole.first(32000)
    assert {" a", " man", " dog", "Two", " water"} <= set(whole.surfaces[:100])


@needs_data
@pytest.mark.parametrize("name", ["qwen2", "llama3"])
def test_the_shipped_vocabulary_decodes_to_itself(real, name):
    vocabulary = SharedVocabulary.qwen2_llama3(size=None)
    ids = vocabulary.token_ids(real[name])
    assert tuple(real[name].decode(i) for i in ids) == vocabulary.surfaces


@needs_data
def test_qwen2_and_llama3_share_the_shipped_surfaces_whichever_comes_first(real):
    texts = ["A dog runs over the snow.", "Two dogs see a café", "The dog"]
    vocabulary = SharedVocabulary.build([real["qwen2"], real["llama3"]], texts)
    assert vocabulary == SharedVocabulary.build([real["llama3"], real["qwen2"]], texts)
    assert {" dog", "A", "The", " snow"} <= set(vocabulary.surfaces[:20])
    assert set(vocabulary.surfaces) == set(SharedVocabulary.qwen2_llama3(size=None).surfaces)


def test_load_takes_the_first_words_of_a_file_or_of_the_vocabulary_that_ships(tmp_path):
    SharedVocabulary([" a", " dog", "."]).save(tmp_path / "words.json")
    assert SharedVocabulary.load(tmp_path / "words.json") == SharedVocabulary([" a", " dog", "."])
    assert SharedVocabulary.load(tmp_path / "words.json", 2) == SharedVocabulary([" a", " dog"])
    assert SharedVocabulary.load() == SharedVocabulary.qwen2_llama3(19200)
    assert SharedVocabulary.load(size=7) == SharedVocabulary.qwen2_llama3(7)

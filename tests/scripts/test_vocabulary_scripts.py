# SPDX-License-Identifier: Apache-2.0
"""The two vocabulary scripts, run as a user runs them: from another folder."""

import gzip
import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modeling_langbridge import SharedVocabulary


CAPTIONS = ["a dog runs over the snow", "two dogs and the cat", "a man and a dog"] * 4 + ["the cat and the snow"] * 8


def run(script: str, *arguments: object, cwd: Path) -> CompletedProcess:
    return run_script_here(SCRIPTS / script, *arguments, cwd=cwd)


def assert_refused(result: CompletedProcess, *complaints: str) -> None:
    assert result.returncode in (1, 2)
    assert all(complaint in result.stderr.splitlines()[-1] for complaint in complaints), result.stderr


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Two tiny language models with their tokenizers, of different families, vocabularies and widths."""
    made = {}
    for name, size, metaspace in [("llama", 300, False), ("gemma", 60, True)]:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = (
            pre_tokenizers.Metaspace() if metaspace else pre_tokenizers.ByteLevel(add_prefix_space=False)
        )
        tokenizer.decoder = decoders.Metaspace() if metaspace else decoders.ByteLevel()
        alphabet = [] if metaspace else pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=["<unk>"])
        tokenizer.train_from_iterator(CAPTIONS, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
        sizes = {"vocab_size": len(tokenizer), "intermediate_size": 32, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
        if name == "llama":
            model = LlamaForCausalLM(LlamaConfig(hidden_size=24, **sizes, **heads))
        else:
            model = GemmaForCausalLM(GemmaConfig(hidden_size=16, head_dim=8, **sizes, **heads))
        made[name] = tmp_path_factory.mktemp(name) / f"tiny.{name}"
        model.to(torch.bfloat16).save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def built(folders, tmp_path_factory) -> Path:
    """A vocabulary that the command line made for the two tiny models."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "one.txt").write_text("\n".join(CAPTIONS[:12]), encoding="utf-8")
    with gzip.open(folder / "two.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(CAPTIONS[12:]) + "\n")
    names = ["--tokenizers", folders["llama"], folders["gemma"], "--texts", "one.txt", "two.txt.gz"]
    result = run("create_vocab_subset.py", *names, "--vocab_size", 20, "--output", "words/both.json", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "words" / "both.json"


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("name", ["llama3", "Qwen"])
def test_the_flags_of_the_original_give_the_first_words_of_the_shipped_vocabulary(tmp_path, name):
    result = run("create_vocab_subset.py", "--vocab_size", 19200, "--model_name", name, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"19200_{name}.json" in result.stdout
    written = SharedVocabulary.from_file(tmp_path / "vocab" / f"19200_{name}.json")
    assert written == SharedVocabulary.qwen2_llama3(size=19200)


def test_a_model_gets_the_shipped_words_that_it_has(tmp_path, folders):
    result = run("create_vocab_subset.py", "--language_model", folders["gemma"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (written,) = (tmp_path / "vocab").iterdir()
    vocabulary = SharedVocabulary.from_file(written)
    assert written.name == f"{len(vocabulary)}_tiny.gemma.json"
    assert vocabulary == SharedVocabulary.qwen2_llama3(None).restricted_to(tokenizer_of(folders["gemma"]))
    assert vocabulary.surfaces[0] == " a"


def test_a_new_vocabulary_is_built_from_tokenizers_and_all_texts(folders, built):
    tokenizers = [tokenizer_of(folder) for folder in folders.values()]
    vocabulary = SharedVocabulary.from_file(built)
    assert vocabulary == SharedVocabulary.build(tokenizers, CAPTIONS, 20)
    assert vocabulary != SharedVocabulary.build(tokenizers, CAPTIONS[:12], 20)  # so the second file was read


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_embeddings_are_what_the_model_embeds_the_words_to(folders, built, tmp_path, name):
    arguments = ["--language_model", folders[name], "--vocab_path", built, "--output_dir", "embeddings"]
    result = run("get_input_embeddings.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (tmp_path / "embeddings").iterdir()] == [f"tiny.{name}_20.safetensors"]
    with safe_open(tmp_path / "embeddings" / f"tiny.{name}_20.safetensors", "pt") as file:
        embeddings, token_ids = file.get_tensor("embeddings"), file.get_tensor("token_ids")
        surfaces = json.loads(file.metadata()["surfaces"])

    vocabulary = SharedVocabulary.from_file(built)
    assert tuple(surfaces) == vocabulary.surfaces
    assert token_ids.tolist() == vocabulary.token_ids(tokenizer_of(folders[name]))
    model_class = {"llama": LlamaForCausalLM, "gemma": GemmaForCausalLM}[name]
    model = model_class.from_pretrained(folders[name], dtype=torch.bfloat16)
    # inputs_embeds=E must mean to the model what the words' ids mean, whatever it does to its embeddings inside
    with torch.inference_mode():
        expected = model(input_ids=token_ids[None]).logits  # (1, V, vocab_size)
        assert torch.equal(model(inputs_embeds=embeddings[None]).logits, expected)
        assert not torch.equal(model(inputs_embeds=1.01 * embeddings[None]).logits, expected)


def test_mistakes_with_the_vocabulary_get_one_sentence(tmp_path, folders):
    subset, tokenizers = "create_vocab_subset.py", ["--tokenizers", *folders.values()]
    (tmp_path / "broken.txt.gz").write_bytes(b"not gzip")
    for arguments, complaints in [
        ([*tokenizers, "--vocab_size", 9], ["--tokenizers and --texts go together"]),
        (["--vocab_size", 999999, "--language_model", "qwen"], ["ask for 1 to"]),
        ([*tokenizers, "--texts", "absent.txt"], ["--texts", "no file absent.txt"]),
        ([*tokenizers, "--texts", "broken.txt.gz"], ["--texts broken.txt.gz", "could not be read"]),
    ]:
        assert_refused(run(subset, *arguments, cwd=tmp_path), *complaints)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.txt.gz"]


def test_mistakes_with_the_embeddings_get_one_sentence(tmp_path, folders, built):
    SharedVocabulary([" a", " zebra"]).save(tmp_path / "zebra.json")
    shutil.copytree(folders["gemma"], tmp_path / "mixed")
    tokenizer_of(folders["llama"]).save_pretrained(tmp_path / "mixed")
    for model, vocabulary, complaints in [
        (folders["llama"], "absent.json", ["--vocab_path", "no vocabulary file absent.json"]),
        (tmp_path, built, ["--language_model", "Hub id or a local folder"]),
        ("mixed", built, ["do not belong together"]),
        (folders["llama"], "zebra.json", ["1 of the 2", "' zebra'", "create_vocab_subset.py --language_model"]),
    ]:
        arguments = ["--language_model", model, "--vocab_path", vocabulary, "--output_dir", "out"]
        assert_refused(run("get_input_embeddings.py", *arguments, cwd=tmp_path), *complaints)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", ["create_vocab_subset.py", "get_input_embeddings.py"])
def test_help_shows_an_example(tmp_path, script):
    result = run(script, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "example" in result.stdout and f"python scripts/{script}" in result.stdout

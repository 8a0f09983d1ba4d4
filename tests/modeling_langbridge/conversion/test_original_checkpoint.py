# SPDX-License-Identifier: Apache-2.0
"""What the conversion of a published checkpoint refuses, each in one sentence, and what its script says."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from original_langbridge import OriginalLangBridge, choose_words
from paths import SCRIPTS
from safetensors.torch import load_file, save_file
from tiny_parts import make_tokenizer, save_vision_tower

from modeling_langbridge.conversion.from_original import check_order


SCRIPT = SCRIPTS / "convert_langbridge_weights_to_hf.py"


@pytest.fixture(scope="module")
def files(vision, tmp_path_factory) -> Path:
    """A whole checkpoint of a model that was finetuned, and what belongs to it."""
    folder = tmp_path_factory.mktemp("files")
    original = OriginalLangBridge("qwen", vision)
    original.finetune(0.1)
    original.save(folder / "original", "safetensors shards")
    original.save_vocabulary(folder / "words.json")
    original.save_matrix(folder / "matrix.pt")
    return folder


def name_sources(files: Path) -> dict[str, Path]:
    """The script's options for them."""
    return {
        "--model": files / "original",
        "--vocabulary": files / "words.json",
        "--vocab_matrix": files / "matrix.pt",
    }


def as_arguments(sources: dict[str, Path], output: Path) -> list[str]:
    return [str(part) for pair in (sources | {"--output_dir": output}).items() for part in pair]


def test_the_script_says_what_it_took_for_granted_and_what_cannot_be_named(vision, tmp_path, run_script):
    original = OriginalLangBridge("qwen", vision, 60, ["<|endoftext|>"])
    sources = {
        "--model": original.save(tmp_path / "original"),
        "--vocabulary": original.save_vocabulary(tmp_path / "words.json"),
    }
    output = run_script(*as_arguments(sources, tmp_path / "converted"))
    assert "No --vocab_matrix was given" in output
    assert (
        "1 of the words are special tokens, parts of a character or second spellings, such as '<|endoftext" in output
    )


def test_a_folder_that_exists_is_left_alone(files, tmp_path, run_script):
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "mine.txt").write_text("mine")
    message = run_script(*as_arguments(name_sources(files), tmp_path / "converted"))
    assert "converted exists and is not an empty folder" in message
    assert [path.name for path in tmp_path.rglob("*")] == ["converted", "mine.txt"]


def test_what_all_embeddings_share_does_not_hide_another_order():
    torch.manual_seed(0)
    shared, rows, words = 5 * torch.randn(32), torch.randn(60, 32), [f"word{index}" for index in range(60)]
    check_order(shared + rows, shared + rows + torch.randn(60, 32) / 2, words, "files")
    with pytest.raises(ValueError, match="files do not fit together: 60 of 60 rows"):
        check_order(shared + rows, shared + rows.roll(1, 0), words, "files")


class Malicious:
    """An object that, on being unpickled, makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def set_config(checkpoint: Path, **fields) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | fields))


def change_weights(checkpoint: Path, change) -> None:
    """Passes the tensors that the first shard holds through `change`."""
    shard = checkpoint / "model-00001-of-00003.safetensors"
    save_file(change(load_file(shard)), shard)


def read_words(sources: dict[str, Path]) -> dict[str, int]:
    return json.loads(sources["--vocabulary"].read_text())


def reorder(sources: dict[str, Path], words: list[str]) -> None:
    content = read_words(sources)
    sources["--vocabulary"].write_text(json.dumps({word: content[word] for word in words}))


def words_sorted_by_id(sources):
    content = read_words(sources)
    reorder(sources, sorted(content, key=content.get))
    return r"do not fit together: \d\d of 60 rows are far from their words' embeddings, .* in another order"


def two_words_swapped(sources):
    first, second, *others = read_words(sources)
    reorder(sources, [second, first, *others])
    return f"2 of 60 rows are far from their words' embeddings, like those of {second!r}, {first!r}: the"


def a_vocabulary_of_another_tokenizer(sources):
    words = choose_words(make_tokenizer(["dogs and cats play with children, boats and bikes in the park"] * 5), 60, [])
    sources["--vocabulary"].write_text(json.dumps(words))
    return (
        r"words.json was made for another tokenizer .* where \d+ of the 60 words have other ids, such as '.*' \(its id"
    )


def a_vocabulary_of_a_larger_tokenizer(sources):
    content = read_words(sources)
    sources["--vocabulary"].write_text(json.dumps({**{"Ġlarge": 151000}, **content}))
    return r"1 of the 60 words have other ids, such as 'Ġlarge' \(its id is that of None\)"


def a_vocabulary_too_short(sources):
    reorder(sources, list(read_words(sources))[:40])
    return r"words.json holds 40 words, fewer than `mm_vocab_size` in the checkpoint \(60\)"


def a_vocabulary_of_surfaces(sources):
    sources["--vocabulary"].write_text(json.dumps([" a", " dog"]))
    return "words.json must hold a JSON object, not a list"


def a_vocabulary_of_something_else(sources):
    content = read_words(sources)
    sources["--vocabulary"].write_text(json.dumps(dict.fromkeys(content, "a")))
    return "words.json must give each word's token id, a number from 0 on, and one is 'a'"


def no_vocabulary(sources):
    sources["--vocabulary"].unlink()
    return "There is no file .*words.json"


def the_matrix_of_another_width(sources):
    torch.save(torch.zeros(60, 48), sources["--vocab_matrix"])
    return r"matrix.pt is \[60, 48\], but 60 words and a language model 32 wide ask for \[60, 32\]"


def the_matrix_of_another_language_model(sources):
    torch.save(torch.randn(60, 32), sources["--vocab_matrix"])
    return r"\d\d of 60 rows are far .* or another language model's"


def a_matrix_that_is_no_tensor(sources):
    torch.save({"matrix": torch.zeros(60, 32)}, sources["--vocab_matrix"])
    return "matrix.pt must hold one tensor of finite numbers"


def a_matrix_that_is_no_number(sources):
    torch.save(torch.full((60, 32), torch.nan), sources["--vocab_matrix"])
    return "matrix.pt must hold one tensor of finite numbers"


def a_matrix_with_code(sources):
    torch.save(Malicious(sources["--vocab_matrix"].parent / "trap"), sources["--vocab_matrix"])
    return "matrix.pt holds objects other than tensors, which could run code and are not loaded"


def a_projector_with_code(sources):
    remove_weights(sources["--model"])
    trap = Malicious(sources["--model"].parent / "trap")
    torch.save({"model.mm_projector.0.weight": trap}, sources["--model"] / "mm_projector.bin")
    return "mm_projector.bin holds objects other than tensors"


def weights_in_a_list(sources):
    remove_weights(sources["--model"])
    torch.save([torch.zeros(2)], sources["--model"] / "pytorch_model.bin")
    return "pytorch_model.bin must hold only named tensors"


def remove_weights(checkpoint: Path) -> None:
    for path in checkpoint.glob("model*"):
        path.unlink()


def a_damaged_shard(sources):
    shard = sources["--model"] / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    return "model-00002-of-00003.safetensors is damaged"


def a_damaged_bin(sources):
    remove_weights(sources["--model"])
    path = sources["--model"] / "pytorch_model.bin"
    torch.save({"model.norm.weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1000])
    return "pytorch_model.bin is damaged"


def an_absent_shard(sources):
    (sources["--model"] / "model-00002-of-00003.safetensors").unlink()
    return "There is no file .*model-00002-of-00003.safetensors"


def no_weights(sources):
    remove_weights(sources["--model"])
    return "There is none of model.safetensors.index.json, .*mm_projector.bin in .*: name a whole checkpoint"


def no_projector(sources):
    remove_weights(sources["--model"])
    torch.save({"model.norm.weight": torch.ones(32)}, sources["--model"] / "pytorch_model.bin")
    return r"do not fit its config.json: `model.mm_projector.0.weight` is missing but must be \[20, 24\], "


def missing_weights(sources):
    change_weights(sources["--model"], lambda tensors: {"lm_head.weight": torch.zeros(512, 32)})
    return r"do not fit its config.json: `model.mm_projector.\d.\w+` is missing but must be \[.* and \d+ more\.$"


def an_unknown_weight(sources):
    change_weights(sources["--model"], lambda tensors: {**tensors, "model.image_newline": torch.zeros(32)})
    return r"do not fit its config.json: `model.image_newline` is \[32\] but must be absent\.$"


def a_weight_of_another_shape(sources):
    set_config(sources["--model"], intermediate_size=40)
    return r"mlp.\w+.weight` is \[.*48.*\] but must be \[.*40.*\]"


def a_projector_of_another_size(sources):
    set_config(sources["--model"], mlp_hidden_size=24)
    return r"`model.mm_projector.0.weight` is \[20, 24\] but must be \[24, 24\]"


def another_projector(sources):
    set_config(sources["--model"], mm_projector_type="mlp2x_gelu")
    return "`mm_projector_type` is 'mlp2x_gelu' in .*config.json: only checkpoints with 'mm_vocab' can be converted"


def images_in_tiles(sources):
    set_config(sources["--model"], image_aspect_ratio="anyres")
    return "`mm_patch_merge_type` is 'flat' and `image_aspect_ratio` 'anyres' in .*: only checkpoints with 'flat' and"


def another_kind_of_model(sources):
    set_config(sources["--model"], model_type="langbridge")
    return "is 'langbridge', but checkpoints of the original have llava_llama, llava_mistral, llava_qwen"


def a_config_without_sizes(sources):
    set_config(sources["--model"], mlp_hidden_size=None)
    return "config.json must give mlp_hidden_size as whole numbers"


def a_damaged_config(sources):
    (sources["--model"] / "config.json").write_text("{")
    return "config.json is damaged, it is not JSON"


def no_checkpoint(sources):
    sources["--model"] = sources["--model"] / "absent"
    return "There is no file .*absent/config.json"


def no_tokenizer(sources):
    for path in sources["--model"].glob("tokenizer*"):
        path.unlink()
    return "config.json does not name the --language_model of its training"


def an_absent_vision_tower(sources):
    sources["--vision_tower"] = sources["--model"].parent / "absent"
    return "AutoConfig cannot read .*absent .*: give a folder or Hub id as --vision_tower"


def a_vision_tower_that_is_no_clip(sources):
    sources["--vision_tower"] = sources["--model"].parent / "siglip"
    save_vision_tower("siglip", sources["--vision_tower"])
    return "siglip is a siglip_vision_model, but the original reads CLIP"


@pytest.mark.parametrize(
    "fault",
    [
        words_sorted_by_id,
        two_words_swapped,
        a_vocabulary_of_another_tokenizer,
        a_vocabulary_of_a_larger_tokenizer,
        a_vocabulary_too_short,
        a_vocabulary_of_surfaces,
        a_vocabulary_of_something_else,
        no_vocabulary,
        the_matrix_of_another_width,
        the_matrix_of_another_language_model,
        a_matrix_that_is_no_tensor,
        a_matrix_that_is_no_number,
        a_matrix_with_code,
        a_projector_with_code,
        weights_in_a_list,
        a_damaged_shard,
        a_damaged_bin,
        an_absent_shard,
        no_weights,
        no_projector,
        missing_weights,
        an_unknown_weight,
        a_weight_of_another_shape,
        a_projector_of_another_size,
        another_projector,
        images_in_tiles,
        another_kind_of_model,
        a_config_without_sizes,
        a_damaged_config,
        no_checkpoint,
        no_tokenizer,
        an_absent_vision_tower,
        a_vision_tower_that_is_no_clip,
    ],
    ids=lambda fault: fault.__name__,
)
def test_what_cannot_be_converted_is_refused_in_one_sentence(fault, files, tmp_path, run_script):
    shutil.copytree(files, tmp_path / "files")
    sources = name_sources(tmp_path / "files")
    sentence = fault(sources)
    message = run_script(*as_arguments(sources, tmp_path / "converted"))
    assert message.startswith("convert_langbridge_weights_to_hf.py: ") and "\n" not in message
    assert re.search(sentence, message), message
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
    assert not (tmp_path / "files" / "trap").exists()

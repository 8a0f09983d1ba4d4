# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the published code, converted: the same logits and answers as the original's own forward pass."""

import json
from pathlib import Path

import pytest
import torch
from elsewhere import logits_elsewhere
from in_process import run_script_here
from original_langbridge import OriginalLangBridge, mark_image
from paths import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_parts import ask, make_image
from transformers import AutoProcessor, CLIPImageProcessorPil

from modeling_langbridge import (
    LangBridgeAdapter,
)
from modeling_langbridge.conversion.from_original import convert_langbridge


SCRIPT = ROOT / "scripts" / "convert_langbridge_weights_to_hf.py"
PICTURE = make_image("green", (60, 44))


@pytest.fixture
def finetuned(vision) -> OriginalLangBridge:
    original = OriginalLangBridge("qwen", vision)
    original.finetune(0.2)
    return original


def convert(original: OriginalLangBridge, folder: Path, layout: str = "safetensors", with_matrix: bool = True):
    folder.mkdir(exist_ok=True)
    vocabulary, matrix = original.save_vocabulary(folder / "words.json"), original.save_matrix(folder / "matrix.pt")
    checkpoint = original.save(folder / "original", layout)
    return convert_langbridge(checkpoint, vocabulary, matrix if with_matrix else None)


def prompt_of(processor, picture=PICTURE):
    return processor.apply_chat_template(
        ask(picture, "what is in the picture?"),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def original_logits(original: OriginalLangBridge, processor, picture=PICTURE) -> torch.Tensor:
    inputs = prompt_of(processor, picture)
    return original.logits(mark_image(inputs.input_ids[0].tolist(), processor.image_token_id), inputs.pixel_values)


@torch.no_grad()
def converted_logits(model, processor, picture=PICTURE) -> torch.Tensor:
    return model(**prompt_of(processor, picture)).logits[0]


def assert_same_logits(model, processor, original: OriginalLangBridge) -> None:
    expected = original_logits(original, processor)
    assert (expected - original_logits(original, processor, make_image("blue", (40, 40)))).abs().max() > 0.01
    torch.testing.assert_close(converted_logits(model, processor), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize("layout", ["safetensors shards", "safetensors", "bin", "bin shards"])
def test_logits_are_the_originals_in_every_layout_of_the_weights(family, layout, vision, tmp_path):
    original = OriginalLangBridge(family, vision)
    model, processor, shift, unnamed, _ = convert(original, tmp_path, layout)
    assert_same_logits(model, processor, original)
    assert (shift.distance, unnamed) == (0, [])
    assert str(shift).endswith("the head was copied unchanged.")
    torch.testing.assert_close(model.model.vocabulary_head.weight, original.projector["3.weight"], rtol=0, atol=0)


def test_an_output_layer_that_is_tied_is_tied_whatever_was_saved(vision, tmp_path):
    original = OriginalLangBridge("qwen", vision)
    checkpoint = original.save(tmp_path / "original", "bin")
    weights = torch.load(checkpoint / "pytorch_model.bin")
    torch.save(weights | {"lm_head.weight": torch.randn(512, 32)}, checkpoint / "pytorch_model.bin")
    model, processor, *_ = convert_langbridge(checkpoint, original.save_vocabulary(tmp_path / "words.json"))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert_same_logits(model, processor, original)


def test_embeddings_that_training_moved_are_made_up_for(vision, tmp_path):
    for family in ("qwen", "llama"):
        original = OriginalLangBridge(family, vision)
        before = original.matrix.clone()
        original.finetune(0.2)
        moved = original.embed(list(original.words.values()))
        model, processor, shift, *_ = convert(original, tmp_path / family)
        assert_same_logits(model, processor, original)
        assert shift.distance == pytest.approx(((moved - before).norm() / before.norm()).item(), rel=1e-4)
        assert 0.1 < shift.distance < 0.4
        assert shift.rank == shift.width == 32 and shift.error < 1e-6
        assert f"moved by {shift.distance:.2%}" in str(shift) and "32 of the 32 dimensions" in str(shift)


def test_the_correction_is_the_smallest_that_keeps_the_visual_tokens(finetuned, tmp_path):
    head = convert(finetuned, tmp_path)[0].model.vocabulary_head
    embeddings = finetuned.embed(list(finetuned.words.values()))
    change = head.weight - finetuned.projector["3.weight"]  # (V, H)
    assert change.abs().max() > 1e-4
    # Its columns lie in the span of E's: nothing of it could be left out without changing the visual tokens.
    within = embeddings @ torch.linalg.lstsq(embeddings, change).solution
    torch.testing.assert_close(within, change, rtol=0, atol=1e-6)


def test_words_that_cannot_span_the_space_lose_what_is_told(vision, tmp_path):
    original = OriginalLangBridge("qwen", vision, num_words=20)
    original.finetune(0.2)
    model, processor, shift, *_ = convert(original, tmp_path)
    inputs = prompt_of(processor)
    with torch.no_grad():
        tokens = torch.stack(model.model.get_image_features(inputs.pixel_values).pooler_output)  # (1, tokens, d)
    expected = original.encode_images(inputs.pixel_values)
    lost = ((tokens - expected).norm() / expected.norm()).item()
    assert shift.rank == 20 and shift.width == 32 and "20 of the 32 dimensions" in str(shift)
    assert 0.01 < shift.error < 0.5 and 0.5 < lost / shift.error < 2
    embeddings = original.embed(list(original.words.values()))
    nearest = torch.linalg.lstsq(embeddings.T, expected[0].T).solution.T @ embeddings  # (tokens, d)
    torch.testing.assert_close(tokens[0], nearest, rtol=0, atol=1e-4)


def test_without_a_matrix_the_live_embeddings_stand_for_it(vision, finetuned, tmp_path):
    untouched = OriginalLangBridge("qwen", vision)
    model, processor, shift, *_ = convert(untouched, tmp_path / "untouched", with_matrix=False)
    assert shift is None
    assert_same_logits(model, processor, untouched)
    model, processor, *_ = convert(finetuned, tmp_path / "finetuned", with_matrix=False)
    torch.testing.assert_close(model.model.vocabulary_head.weight, finetuned.projector["3.weight"], rtol=0, atol=0)
    assert (converted_logits(model, processor) - original_logits(finetuned, processor)).abs().max() > 1e-3


def test_greedy_answers_are_the_originals(vision, tmp_path):
    answers = set()
    for family in ("qwen", "llama"):
        original = OriginalLangBridge(family, vision)
        original.finetune(0.2)
        model, processor, *_ = convert(original, tmp_path / family)
        for picture in (PICTURE, make_image("blue", (40, 40))):
            inputs = prompt_of(processor, picture)
            marked = mark_image(inputs.input_ids[0].tolist(), processor.image_token_id)
            unwritable = [processor.image_token_id]
            expected = original.write(marked, inputs.pixel_values, 12, unwritable)
            answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs.input_ids.shape[1] :]
            assert answer.tolist() == expected
            answers.add(tuple(expected))
    assert len(answers) == 4


def test_weights_in_bfloat16_stay_in_bfloat16(finetuned, tmp_path):
    checkpoint = finetuned.save(tmp_path / "original")
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, checkpoint / "model.safetensors")
    matrix = finetuned.save_matrix(tmp_path / "matrix.pt")
    model, _, shift, *_ = convert_langbridge(checkpoint, finetuned.save_vocabulary(tmp_path / "words.json"), matrix)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert 1e-4 < shift.error < 0.02


def test_a_matrix_that_rounds_to_the_live_embeddings_is_the_same(vision, tmp_path):
    original = OriginalLangBridge("qwen", vision)
    checkpoint = original.save(tmp_path / "original")
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, checkpoint / "model.safetensors")
    matrix = original.save_matrix(tmp_path / "matrix.pt")
    model, _, shift, *_ = convert_langbridge(checkpoint, original.save_vocabulary(tmp_path / "words.json"), matrix)
    assert shift.distance == 0
    expected = original.projector["3.weight"].bfloat16()
    torch.testing.assert_close(model.model.vocabulary_head.weight, expected, rtol=0, atol=0)


def test_parts_that_the_checkpoint_lacks_come_from_where_its_config_says(vision, tmp_path):
    original = OriginalLangBridge("llama", vision)
    original.vision_tower = type(original.vision_tower).from_pretrained(vision)
    checkpoint = original.save(tmp_path / "original", "projector")
    original.language_model.save_pretrained(tmp_path / "base")
    original.tokenizer.save_pretrained(tmp_path / "base")
    vocabulary, matrix = (
        original.save_vocabulary(tmp_path / "words.json"),
        original.save_matrix(tmp_path / "matrix.pt"),
    )
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    model, processor, shift, *_ = convert_langbridge(checkpoint, vocabulary, matrix, str(tmp_path / "base"))
    assert shift.distance == 0
    assert_same_logits(model, processor, original)

    config = json.loads((checkpoint / "config.json").read_text())
    named = {**config, "_name_or_path": str(tmp_path / "base"), "mm_vision_tower": "./not/here"}
    (checkpoint / "config.json").write_text(json.dumps(named))
    model, processor, *_ = convert_langbridge(checkpoint, vocabulary, matrix, vision_tower=vision)
    assert_same_logits(model, processor, original)


def test_images_are_padded_to_squares_where_the_checkpoint_was_trained_so(vision, tmp_path):
    original = OriginalLangBridge("qwen", vision)
    original.config["image_aspect_ratio"] = "pad"
    _, processor, *_ = convert(original, tmp_path)
    processor.save_pretrained(tmp_path / "processor")
    processor = AutoProcessor.from_pretrained(tmp_path / "processor")
    clip = CLIPImageProcessorPil.from_pretrained(vision)
    for size, corner in (((60, 44), (0, 8)), ((30, 48), (9, 0)), ((40, 40), (0, 0))):
        picture = make_image("green", size)
        square = Image.new("RGB", (max(size), max(size)), tuple(int(255 * mean) for mean in clip.image_mean))
        square.paste(picture, corner)
        expected = clip(square, return_tensors="pt").pixel_values
        torch.testing.assert_close(prompt_of(processor, picture).pixel_values, expected, rtol=0, atol=0)


def test_words_that_cannot_be_named_are_converted_and_told(vision, tmp_path):
    strange = ["<|endoftext|>", "Ã"]  # the second is half of a character
    original = OriginalLangBridge("qwen", vision, 60, strange)
    original.finetune(0.2)
    model, processor, shift, unnamed, _ = convert(original, tmp_path)
    assert unnamed == strange and shift.error < 1e-6
    assert_same_logits(model, processor, original)
    with pytest.raises(ValueError, match="2 of the 62 token ids are not ordinary words"):
        LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")


def test_the_checkpoints_way_of_generating_and_its_templates_are_kept(vision, tmp_path):
    original = OriginalLangBridge("qwen", vision)
    original.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    checkpoint = original.save(tmp_path / "original")
    generation = {"do_sample": True, "eos_token_id": [0, 5], "repetition_penalty": 1.1, "temperature": 0.7}
    (checkpoint / "generation_config.json").write_text(json.dumps(generation))
    model, processor, *_ = convert_langbridge(checkpoint, original.save_vocabulary(tmp_path / "words.json"))
    assert {name: model.generation_config.to_dict()[name] for name in generation} == generation
    assert processor.apply_chat_template(ask(PICTURE, "what?"), tokenize=False) == "[user] <image>\nwhat?"


def test_only_the_first_words_of_a_longer_vocabulary_are_the_checkpoints(vision, tmp_path):
    original = OriginalLangBridge("qwen", vision)
    checkpoint = original.save(tmp_path / "original")
    longer = {**original.words, "foreign": 3, "words": "no id"}
    (tmp_path / "words.json").write_text(json.dumps(longer))
    model, processor, *_ = convert_langbridge(checkpoint, tmp_path / "words.json")
    assert model.model.vocabulary_head.token_ids.tolist() == list(original.words.values())
    assert_same_logits(model, processor, original)


@pytest.mark.slow
def test_the_script_writes_a_folder_that_a_fresh_process_loads_without_this_project(finetuned, tmp_path):
    output = tmp_path / "converted"
    options = {
        "--model": finetuned.save(tmp_path / "original", "safetensors shards"),
        "--vocabulary": finetuned.save_vocabulary(tmp_path / "words.json"),
        "--vocab_matrix": finetuned.save_matrix(tmp_path / "matrix.pt"),
        "--output_dir": output,
    }
    result = run_script_here(SCRIPT, *(part for option in options.items() for part in option))
    assert result.returncode == 0, result.stderr[-3000:]
    sentences = result.stdout.splitlines()
    assert len(sentences) == 2 and "have moved by" in sentences[0] and str(output) in sentences[1]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    expected = original_logits(finetuned, AutoProcessor.from_pretrained(output))

    found = logits_elsewhere(output, PICTURE, tmp_path / "home")[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

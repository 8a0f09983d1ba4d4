# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the published LLaVA-NeXT tree, converted: the original's visual tokens, logits and answers."""

import json
import re
from pathlib import Path

import pytest
import torch
from original_langbridge import RESOLUTIONS, OriginalLangBridgeNext, mark_image
from paths import SCRIPTS
from safetensors.torch import load_file, save_file
from tiny_parts import ask, make_image

from modeling_langbridge import LangBridgeAdapter, LangBridgeNextForConditionalGeneration, LangBridgeNextProcessor
from modeling_langbridge.conversion.from_original import convert_langbridge


SCRIPT = SCRIPTS / "convert_langbridge_weights_to_hf.py"
# Wide, high, square, smaller than a tile, one pixel high, and three tiles wide. (width, height)
SIZES = [(90, 60), (40, 160), (300, 300), (10, 12), (50, 1), (200, 60), (47, 33)]


def convert(original: OriginalLangBridgeNext, folder: Path):
    folder.mkdir(exist_ok=True)
    vocabulary, matrix = original.save_vocabulary(folder / "words.json"), original.save_matrix(folder / "matrix.pt")
    return convert_langbridge(original.save(folder / "original"), vocabulary, matrix)


def prompt_of(processor, picture):
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(ask(picture, "what is it?"), add_generation_prompt=True, **options)


@pytest.mark.parametrize("distance", [0, 0.2])
@pytest.mark.parametrize("family", ["qwen", "llama"])
@torch.no_grad()
def test_visual_tokens_logits_and_answers_are_the_originals(family, distance, vision, tmp_path):
    original = OriginalLangBridgeNext(family, vision)
    original.finetune(distance)
    model, processor, shift, _, newline_error = convert(original, tmp_path)
    assert type(model) is LangBridgeNextForConditionalGeneration and type(processor) is LangBridgeNextProcessor
    assert newline_error < 1e-5 and (shift.distance > 0.1) == (distance > 0)
    for size in SIZES:
        picture = make_image("green", size)
        inputs = prompt_of(processor, picture)
        pixels, _ = original.cut(picture)
        torch.testing.assert_close(inputs.pixel_values[0], pixels, rtol=0, atol=0)
        (tokens,) = model.get_image_features(inputs.pixel_values, inputs.image_sizes).pooler_output
        (expected,) = original.encode_images(picture)
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)
        prompt = mark_image(inputs.input_ids[0].tolist(), processor.image_token_id)
        torch.testing.assert_close(model(**inputs).logits[0], original.logits(prompt, picture), rtol=0, atol=1e-4)
        answer = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs.input_ids.shape[1] :]
        assert answer.tolist() == original.write(prompt, picture, 6, [processor.image_token_id])


@torch.no_grad()
def test_a_newline_beyond_the_projectors_reach_is_told(vision, tmp_path):
    original = OriginalLangBridgeNext("qwen", vision, hidden=20)
    model, *_, newline_error = convert(original, tmp_path)
    head, words = model.model.vocabulary_head, original.matrix.double()
    reach = words.T @ head.weight.double()  # (d, H)
    wanted = original.newline.double() - head.bias.double() @ words
    expected = reach @ torch.linalg.lstsq(reach, wanted[:, None]).solution[:, 0] - wanted
    assert newline_error == pytest.approx((expected.norm() / original.newline.double().norm()).item(), rel=1e-4)
    assert newline_error > 0.1


@torch.no_grad()
def test_the_newline_is_the_shortest(vision, tmp_path):
    model, *_ = convert(OriginalLangBridgeNext("qwen", vision), tmp_path)
    reach = model.model.vocabulary_head.weight.T @ model.model.get_word_embeddings()  # (H, d)
    newline = model.model.image_newline
    within = reach @ torch.linalg.lstsq(reach, newline[:, None]).solution[:, 0]  # nothing of it could be left out
    torch.testing.assert_close(within, newline, rtol=0, atol=1e-4)


def test_its_adapter_stands_alone(vision, text, tmp_path):
    model, processor, *_ = convert(OriginalLangBridgeNext("qwen", vision), tmp_path)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    joined, _ = LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(vision, text)
    torch.testing.assert_close(joined.model.image_newline, model.model.image_newline)


def set_config(checkpoint: Path, **fields) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | fields))


def test_the_script_says_how_near_the_newline_comes_and_reads_resolutions_in_words(vision, tmp_path, run_script):
    original = OriginalLangBridgeNext("qwen", vision)
    checkpoint = original.save(tmp_path / "original", "bin shards")
    set_config(checkpoint, image_grid_pinpoints=str([tuple(pair) for pair in RESOLUTIONS]))
    words = original.save_vocabulary(tmp_path / "words.json")
    output = run_script("--model", checkpoint, "--vocabulary", words, "--output_dir", tmp_path / "converted")
    assert re.search(r"The newline, .*, is made of words with a relative error of \d\.\de-0\d\.\n", output), output
    processor = LangBridgeNextProcessor.from_pretrained(tmp_path / "converted")
    assert processor.image_processor.image_grid_pinpoints == [[height, width] for width, height in RESOLUTIONS]


def no_newline(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.image_newline"]
    save_file(weights, checkpoint / "model.safetensors")
    return r"do not fit its config.json: `model.image_newline` is missing but must be \[32\]\.$"


def a_newline_where_tiles_are_laid_flat(checkpoint):
    set_config(checkpoint, mm_patch_merge_type="flat", image_aspect_ratio="square")
    return r"do not fit its config.json: `model.image_newline` is \[32\] but must be absent\.$"


def single_images_with_a_newline(checkpoint):
    set_config(checkpoint, image_aspect_ratio="pad")
    return "`mm_patch_merge_type` is 'spatial_unpad' and `image_aspect_ratio` 'pad' in .*: only checkpoints with 'fl"


def pooled_tiles(checkpoint):
    set_config(checkpoint, image_aspect_ratio="anyres_max_9")
    return "`image_aspect_ratio` 'anyres_max_9' in .* or with 'spatial_unpad' and 'anyres', can be converted"


def a_resampler(checkpoint):
    set_config(checkpoint, mm_resampler_type="spatial_pool")
    return "`mm_resampler_type` is 'spatial_pool' in .*: only checkpoints with None can be converted"


def no_resolutions(checkpoint):
    set_config(checkpoint, image_grid_pinpoints=None)
    return "`image_grid_pinpoints` in .*config.json is None, but must list pairs of a width and a height"


def resolutions_of_another_tower(checkpoint):
    set_config(checkpoint, image_grid_pinpoints=[[336, 672]])
    return r"`image_grid_pinpoints` holds \[672, 336\]: the vision tower's tiles are 32 wide"


def resolutions_that_are_a_range(checkpoint):
    set_config(checkpoint, image_grid_pinpoints="(1x1),...,(6x6)")
    return r"`image_grid_pinpoints` in .*config.json is '\(1x1\),...,\(6x6\)', but must list pairs"


@pytest.mark.parametrize(
    "fault",
    [
        no_newline,
        a_newline_where_tiles_are_laid_flat,
        single_images_with_a_newline,
        pooled_tiles,
        a_resampler,
        no_resolutions,
        resolutions_of_another_tower,
        resolutions_that_are_a_range,
    ],
    ids=lambda fault: fault.__name__,
)
def test_what_cannot_be_converted_is_refused_in_one_sentence(fault, vision, tmp_path, run_script):
    original = OriginalLangBridgeNext("qwen", vision)
    checkpoint, words = original.save(tmp_path / "original"), original.save_vocabulary(tmp_path / "words.json")
    sentence = fault(checkpoint)
    message = run_script("--model", checkpoint, "--vocabulary", words, "--output_dir", tmp_path / "converted")
    assert message.startswith("convert_langbridge_weights_to_hf.py: ") and "\n" not in message
    assert re.search(sentence, message), message
    assert not (tmp_path / "converted").exists()

# SPDX-License-Identifier: Apache-2.0
"""LangBridge-NeXT: images of any resolution, in tiles as LLaVA-NeXT has them."""

import copy

import numpy as np
import pytest
import torch
from clips import make_clip
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_parts import SENTENCES, make_image, save_other_language_model, save_vision_tower
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextProcessor,
    LangBridgeProcessor,
    SharedVocabulary,
    transfer,
)
from modeling_langbridge.adapter.loading import open_model


# Wide, high, square, smaller than a tile, one pixel wide, of an extreme aspect ratio. (width, height)
SIZES = [(90, 60), (40, 160), (300, 300), (10, 12), (1, 50), (50, 1), (1000, 20)]
GATED = {"coefficient_activation": "gated_softmax"}


def compose(vision, text, words_per_image=None, **fields):
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text, words_per_image=words_per_image)
    torch.manual_seed(0)
    words = SharedVocabulary.build([processor.tokenizer], SENTENCES)
    model = LangBridgeNextForConditionalGeneration.from_vision_text_pretrained(
        vision, text, words, processor, projector_hidden_size=24, **fields
    )
    return model, processor


@pytest.fixture(scope="module")
def parts(vision, text):
    return compose(vision, text)


@pytest.fixture
def model(parts):
    return copy.deepcopy(parts[0])


@pytest.fixture
def processor(parts):
    return parts[1]


def read(processor, sizes, question="<image>what is in the picture?"):
    images = [make_image("red", size=size) for size in sizes]
    return processor(images=images, text=[question] * len(sizes), return_tensors="pt", padding=True)


def plain_tokens(model, inputs):
    """What the adapter makes of every patch by itself, one tile after the other, in the order of LLaVA-NeXT's own."""
    bridge = model.model
    stock = LlavaNextForConditionalGeneration(as_llava_next(model.config))
    newline = bridge.mix(bridge.image_newline)
    images = []
    for tiles, size in zip(inputs["pixel_values"], inputs["image_sizes"], strict=True):
        tiles = tiles[: bridge.count_tiles(size.tolist(), tiles.shape[-1])]
        patches = torch.stack(
            [bridge.adapt(bridge.get_vision_features(tile[None]).pooler_output)[0] for tile in tiles]
        )
        packed, _ = stock.pack_image_features([patches], size[None], "default", newline)
        images += packed
    return images


def as_llava_next(config) -> LlavaNextConfig:
    names = ("vision_config", "text_config", "image_token_index", "image_grid_pinpoints", "vision_feature_layer")
    return LlavaNextConfig(**{name: getattr(config, name) for name in names})


def test_with_an_mlp_it_is_llava_next(vision, text):
    model, processor = compose(vision, text, adapter_type="mlp")
    stock = LlavaNextForConditionalGeneration(as_llava_next(model.config)).eval()
    stock.load_state_dict(model.state_dict())
    inputs = read(processor, SIZES)
    torch.testing.assert_close(model(**inputs).logits, stock(**inputs).logits, rtol=0, atol=0)


def test_placeholders_are_those_of_llava_next(processor):
    stock = LlavaNextProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=processor.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    assert torch.equal(read(processor, SIZES)["input_ids"], read(stock, SIZES)["input_ids"])
    sizes = [(height, width) for width, height in SIZES]
    counted = processor._get_num_multimodal_tokens(sizes).num_image_tokens
    assert counted == (read(processor, SIZES)["input_ids"] == processor.image_token_id).sum(1).tolist()


@pytest.mark.parametrize("training", [False, True])
def test_visual_tokens_are_the_adapters_of_each_patch_in_llava_nexts_order(model, processor, training):
    inputs = read(processor, SIZES)
    model.train(training)
    found = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
    for tokens, expected in zip(found, plain_tokens(model.eval(), inputs), strict=True):
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-6)


def test_the_newline_is_made_of_words(model, processor):
    inputs = read(processor, [(60, 90)])
    (tokens,) = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
    coefficients = model.model.vocabulary_head(model.model.image_newline)  # (V,)
    expected = coefficients @ model.model.get_word_embeddings()
    torch.testing.assert_close(tokens[-1], expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        model.get_input_embeddings().weight[model.model.vocabulary_head.token_ids] *= 2
    (doubled,) = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
    torch.testing.assert_close(doubled[-1], 2 * expected, rtol=1e-4, atol=1e-6)


def test_every_part_of_the_adapter_learns(model, processor):
    inputs = read(processor, SIZES[:2])
    model.train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    adapter = ("multi_modal_projector", "vocabulary_head", "image_newline")
    assert all(parameter.grad.any() for name, parameter in model.named_parameters() if name.split(".")[1] in adapter)


def test_words_of_an_image_are_pooled_over_overview_and_tiles(vision, text):
    model, processor = compose(vision, text, words_per_image=4, **GATED)
    inputs = read(processor, SIZES)
    assert ((inputs["input_ids"] == processor.image_token_id).sum(1) == 4).all()
    found = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
    bridge, stock = model.model, LlavaNextForConditionalGeneration(as_llava_next(model.config))
    for tokens, tiles, size in zip(found, inputs["pixel_values"], inputs["image_sizes"], strict=True):
        tiles = tiles[: bridge.count_tiles(size.tolist(), tiles.shape[-1])]
        hidden_states = bridge.multi_modal_projector(bridge.get_vision_features(tiles).pooler_output)
        ((patches,), _) = stock.pack_image_features([hidden_states], size[None], "default")
        pooled = bridge.vocabulary_head(patches[None], pool=True).distribution[0]  # (V,)
        expected = bridge.get_word_embeddings()[pooled.topk(4).indices]
        torch.testing.assert_close(tokens, expected)
    model(**inputs)


def test_a_batch_of_text_alone_runs_the_adapter_for_no_tokens(model, processor):
    inputs = processor(text=["what is it?"], return_tensors="pt")
    blank = read(processor, [(60, 90)])
    none = {"pixel_values": blank["pixel_values"][:0], "image_sizes": blank["image_sizes"][:0]}
    model.train()
    outputs = model(**inputs, **none, labels=inputs["input_ids"])
    torch.testing.assert_close(outputs.logits, model(**inputs).logits)
    outputs.loss.backward()
    adapter = ("multi_modal_projector", "vocabulary_head", "image_newline")
    assert all(p.grad is not None for name, p in model.named_parameters() if name.split(".")[1] in adapter)


def test_answers_are_the_same_alone_and_in_a_batch_of_other_sizes(model, processor):
    together = read(processor, SIZES)
    answers = model.generate(**together, max_new_tokens=6, do_sample=False)[:, together["input_ids"].shape[1] :]
    for size, answer in zip(SIZES, answers, strict=True):
        alone = read(processor, [size])
        expected = model.generate(**alone, max_new_tokens=6, do_sample=False)[0, alone["input_ids"].shape[1] :]
        assert answer.tolist()[: len(expected)] == expected.tolist()


def test_many_tiles_are_read_a_few_at_a_time_with_the_same_result(model, processor):
    inputs = read(processor, SIZES)
    calls = []
    model.model.vision_tower.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    with torch.no_grad():
        a_few = model.get_image_features(**inputs_of_images(inputs), output_hidden_states=True)
    at_once = model.get_image_features(**inputs_of_images(inputs), output_hidden_states=True)
    assert max(calls[:-1]) <= 16 < calls[-1] == sum(calls[:-1])
    for few, all_of_them in zip(a_few.pooler_output, at_once.pooler_output, strict=True):
        torch.testing.assert_close(few, all_of_them, rtol=1e-4, atol=1e-6)
    assert [state.shape for state in a_few.hidden_states] == [state.shape for state in at_once.hidden_states]


def inputs_of_images(inputs) -> dict[str, torch.Tensor]:
    return {name: inputs[name] for name in ("pixel_values", "image_sizes")}


def test_a_saved_model_answers_as_before(model, processor, tmp_path):
    inputs = read(processor, SIZES[:3])
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    loaded = LangBridgeNextForConditionalGeneration.from_pretrained(tmp_path)
    again = LangBridgeNextProcessor.from_pretrained(tmp_path)
    assert again.image_processor.image_grid_pinpoints == processor.image_processor.image_grid_pinpoints
    assert all(torch.equal(value, inputs[name]) for name, value in read(again, SIZES[:3]).items())
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("name", ["siglip", "dinov2", "mobilenet_v2"])
def test_tiles_are_what_the_tower_was_made_for(name, text, tmp_path):
    vision = save_vision_tower(name, tmp_path / name)
    model, processor = compose(vision, text)
    side = processor.image_processor.crop_size["height"]
    assert model.config.image_grid_pinpoints[0] == [side, 2 * side]
    plain = super(LangBridgeNextProcessor, processor).from_vision_text_pretrained(vision, text)
    square = make_image(size=(side, side))
    own = plain.image_processor(square, return_tensors="pt")["pixel_values"][0]
    overview = processor.image_processor(square, return_tensors="pt")["pixel_values"][0, 0]
    torch.testing.assert_close(overview, own, rtol=0, atol=1e-5)
    model(**read(processor, SIZES[:3]))


def test_towers_that_are_not_made_for_tiles_are_refused(vision, text, tmp_path):
    colours = save_vision_tower("efficientnet", tmp_path / "colours")
    with pytest.raises(ValueError, match="EfficientNetImageProcessorPil does more to colours than"):
        LangBridgeNextProcessor.from_vision_text_pretrained(colours, text)
    registers = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_register_tokens=2
    )
    save_vision_tower("dinov2", tmp_path / "registers")
    Dinov2WithRegistersModel(registers).save_pretrained(tmp_path / "registers")
    with pytest.raises(ValueError, match="3 tokens beside its patches"):
        LangBridgeNextProcessor.from_vision_text_pretrained(str(tmp_path / "registers"), text)
    with pytest.raises(ValueError, match=r"holds \[40, 32\]: the vision tower's tiles are 32 wide"):
        LangBridgeNextProcessor.from_vision_text_pretrained(vision, text, image_grid_pinpoints=[[40, 32]])


def test_resolutions_that_are_none_are_refused(model):
    fields = model.config.to_dict()
    with pytest.raises(StrictDataclassError, match=r"`image_grid_pinpoints` holds \[336\]"):
        type(model.config)(**{**fields, "image_grid_pinpoints": [[336]]})


def test_a_transfer_there_and_back_keeps_all(model, processor, text, tmp_path):
    inputs = read(processor, SIZES[:3])
    expected = model(**inputs).logits
    other = save_other_language_model(tmp_path / "other")
    moved, its_processor = transfer(model, processor, other)
    assert type(moved) is LangBridgeNextForConditionalGeneration
    its_inputs = read(its_processor, SIZES[:3])
    (_, *_, tokens) = moved.get_image_features(its_inputs["pixel_values"], its_inputs["image_sizes"]).pooler_output
    newline = moved.model.vocabulary_head(moved.model.image_newline)  # (V,)
    torch.testing.assert_close(tokens[-1], newline @ moved.model.get_word_embeddings(), rtol=1e-4, atol=1e-6)
    back, processor = transfer(moved, its_processor, text)
    assert all(torch.equal(value, inputs[name]) for name, value in read(processor, SIZES[:3]).items())
    torch.testing.assert_close(back(**inputs).logits, expected)


def test_a_model_of_words_reads_tiles_with_another_language_model_too(vision, text, tmp_path):
    model, processor = compose(vision, text, words_per_image=4, **GATED)
    moved, its_processor = transfer(model, processor, save_other_language_model(tmp_path / "other"))
    assert type(moved) is LangBridgeNextForConditionalGeneration and moved.config.words_per_image == 4
    moved(**read(its_processor, SIZES[:3]))


def test_an_adapter_alone_keeps_its_newline(model, processor, vision, text, tmp_path):
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    joined, its_processor = LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(vision, text)
    assert type(joined) is LangBridgeNextForConditionalGeneration
    inputs = read(processor, SIZES[:3])
    assert all(torch.equal(value, inputs[name]) for name, value in read(its_processor, SIZES[:3]).items())
    torch.testing.assert_close(joined(**inputs).logits, model(**inputs).logits)


def test_an_adapter_of_single_images_reads_tiles(vision, text, tmp_path):
    plain_processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    words = SharedVocabulary.build([plain_processor.tokenizer], SENTENCES)
    plain = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, words, plain_processor, projector_hidden_size=24, **GATED
    )
    adapter = LangBridgeAdapter.from_model(plain, plain_processor.tokenizer)
    model, processor = adapter.join(
        vision, text, model_class=LangBridgeNextForConditionalGeneration, words_per_image=4
    )
    inputs = read(processor, SIZES[:3])
    overviews = plain.get_image_coefficients(inputs["pixel_values"][:, 0])  # (images, patches, V)
    images = model.get_image_coefficients(**inputs_of_images(inputs))
    torch.testing.assert_close(torch.stack([image[: overviews.shape[1]] for image in images]), overviews)
    model(**inputs)


def test_the_loader_takes_it_for_what_it_is(model, processor, tmp_path):
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    loaded, its_processor = open_model(str(tmp_path), device_map=None)
    assert type(loaded) is LangBridgeNextForConditionalGeneration and type(its_processor) is LangBridgeNextProcessor
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: weights[name] for name in weights if "newline" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lacks 1 weights that its config.json describes, such as `model.image_newl"):
        open_model(str(tmp_path), device_map=None)


def test_an_mlp_has_rows_whatever_is_said_of_words(model):
    fields = {**model.config.to_dict(), "adapter_type": "mlp", "words_per_image": 4, **GATED}
    assert LangBridgeNextForConditionalGeneration(type(model.config)(**fields)).model.image_newline is not None


def save_turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    make_image(size=(90, 60)).save(path, exif=exif)


SAVE = {
    "turned.jpg": save_turned,
    "deep.png": lambda path: Image.fromarray(np.full((60, 90), 40000, dtype=np.uint16)).save(path),
    "inks.jpg": lambda path: make_image(size=(90, 60)).convert("CMYK").save(path),
    "palette.png": lambda path: make_image(size=(90, 60)).convert("P").save(path),
    "transparent.png": lambda path: make_image(size=(90, 60)).convert("RGBA").save(path),
    "animated.gif": lambda path: make_image(size=(90, 60)).save(
        path, save_all=True, append_images=[make_image("blue")]
    ),
}


@pytest.mark.parametrize("name", SAVE)
def test_images_of_every_kind_come_through_the_one_reader(processor, tmp_path, name):
    SAVE[name](tmp_path / name)
    inputs = processor(images=[str(tmp_path / name)], text=["<image>what"], return_tensors="pt")
    opened = processor.open_image(tmp_path / name)
    assert opened.mode == "RGB" and inputs["image_sizes"].tolist() == [[opened.height, opened.width]]
    assert (opened.height > opened.width) == (name == "turned.jpg")
    expected = processor.image_processor(opened, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(inputs["pixel_values"], expected, rtol=0, atol=0)


def test_images_of_different_sizes_and_a_video_in_one_message(model, processor, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip(["red", "blue", "lime"], size=(90, 60)))
    images = [make_image(size=size) for size in SIZES[:3]]
    question = {"type": "text", "text": "what is in the pictures?"}
    content = [
        *({"type": "image", "image": image} for image in images),
        {"type": "video", "path": str(path)},
        question,
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], num_frames=2, **options)
    sizes = [(image.height, image.width) for image in images] + [(60, 90)] * 2
    assert inputs["image_sizes"].tolist() == [list(size) for size in sizes]
    counts = processor._get_num_multimodal_tokens(sizes).num_image_tokens
    assert (inputs["input_ids"] == processor.image_token_id).sum() == sum(counts)
    features = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
    for image, tokens in zip(images, features, strict=False):
        alone = processor.image_processor(image, return_tensors="pt")
        (expected,) = model.get_image_features(alone["pixel_values"], alone["image_sizes"]).pooler_output
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-6)
    assert model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] > inputs["input_ids"].shape[1]

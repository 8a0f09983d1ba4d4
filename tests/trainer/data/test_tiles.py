# SPDX-License-Identifier: Apache-2.0
"""Samples of LangBridge-NeXT: a placeholder for each visual token of an image, by its size, and batches of tiles."""

import json

import pytest
import torch
from PIL import Image
from tiny_parts import ask, make_image
from tiny_training import SIZES, write_samples

from modeling_langbridge import LangBridgeNextProcessor
from trainer import check_file, load_training_data
from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder
from trainer.data.faults import SampleError
from trainer.data.sample_lengths import without_too_long


@pytest.fixture(scope="module")
def processor(vision, text) -> LangBridgeNextProcessor:
    return LangBridgeNextProcessor.from_vision_text_pretrained(vision, text)


@pytest.fixture
def encoder(processor):
    return ConversationEncoder(processor)


@pytest.fixture
def dataset(tmp_path):
    return load_training_data(str(write_samples(tmp_path, sizes=SIZES)))


def make_row(image, answer: str = "a dog") -> dict:
    return {"messages": [*ask(image), {"role": "assistant", "content": answer}]}


def in_inference(processor, image) -> dict[str, torch.Tensor]:
    """What the processor makes of the row's question."""
    return processor.apply_chat_template(
        ask(image), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_sample_begins_as_its_prompt_in_inference_does(encoder, processor, size):
    image = make_image(size=size)
    prompt = in_inference(processor, image)["input_ids"][0].tolist()
    encoded = encoder.encode(make_row(image))
    assert encoded["input_ids"][: len(prompt)] == prompt
    assert encoded["num_image_tokens"] == [prompt.count(processor.image_token_id)]
    assert len(encoded["input_ids"]) == len(encoded["labels"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_lies_on_its_side_is_counted_upright(encoder, processor, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = str(tmp_path / "photo.jpg")
    make_image(size=(60, 160)).save(photo, exif=exif)
    prompt = in_inference(processor, photo)
    assert encoder.encode(make_row(photo))["num_image_tokens"] == [
        (prompt["input_ids"] == processor.image_token_id).sum()
    ]
    batch = ConversationCollator(encoder)([make_row(photo)])
    assert torch.equal(batch["image_sizes"], prompt["image_sizes"])


def test_counting_opens_headers_alone(encoder, tmp_path):
    photo = tmp_path / "photo.jpg"
    make_image(size=(90, 60)).save(photo)
    whole = encoder.encode(make_row(str(photo)))["num_image_tokens"]
    photo.write_bytes(photo.read_bytes()[:-400])
    assert encoder.encode(make_row(str(photo)))["num_image_tokens"] == whole
    with pytest.raises(SampleError, match="cannot be decoded"):
        ConversationCollator(encoder)([make_row(str(photo))])


def test_images_of_other_models_are_not_opened_to_be_counted(vision, text):
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text, words_per_image=4)
    assert ConversationEncoder(processor).encode(make_row("absent.jpg"))["num_image_tokens"] == [4]


def test_a_batch_holds_tiles_and_sizes(encoder, processor, dataset):
    rows = list(dataset)
    batch = ConversationCollator(encoder)(rows)
    images = [Image.open(path) for row in rows for path in row["images"]]
    expected = processor.image_processor(images, return_tensors="pt")
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    assert torch.equal(batch["image_sizes"], expected["image_sizes"])
    assert len({tuple(size) for size in batch["image_sizes"].tolist()}) == len(SIZES)


def test_a_batch_of_text_alone_has_no_image_of_the_right_shape(encoder, dataset):
    text = [row for row in dataset if not row["images"]]
    batch = ConversationCollator(encoder)(text)
    whole = ConversationCollator(encoder)(list(dataset))
    for name in ("pixel_values", "image_sizes"):
        assert len(batch[name]) == 0 and batch[name].dtype == whole[name].dtype
    assert batch["pixel_values"].shape[2:] == whole["pixel_values"].shape[2:]
    assert batch["image_sizes"].shape == (0, 2)


ADVICE = "; 70 of them are its images', which smaller resolutions in `image_grid_pinpoints` or `words_per_image` make"


@pytest.mark.parametrize("streaming", [False, True])
def test_tiles_beyond_the_length_are_refused_with_what_lowers_them(encoder, tmp_path, streaming):
    make_image(size=(90, 60)).save(tmp_path / "photo.png")
    (tmp_path / "rows.json").write_text(json.dumps([make_row("photo.png")]))
    dataset = load_training_data(str(tmp_path / "rows.json"), streaming=streaming)
    length = encoder.length(next(iter(dataset)))
    assert len(list(without_too_long(dataset, encoder, length, "error"))) == 1
    with pytest.raises(SampleError, match=f"has {length} tokens, more than `max_length` {length - 1}.*{ADVICE}"):
        list(without_too_long(dataset, encoder, length - 1, "error"))
    with pytest.raises(SampleError, match=f"has {length} tokens, more than the language model's context.*{ADVICE}"):
        ConversationCollator(encoder, context=length - 1)(list(dataset))
    report = check_file(tmp_path / "rows.json", processor=encoder.processor, max_length=length - 1)
    (fault,) = report.examples["too long"]
    assert fault.message.startswith(f"{length} tokens, more than {length - 1}{ADVICE}")


def test_a_check_counts_tiles_and_names_a_broken_image_once(encoder, tmp_path):
    samples = write_samples(tmp_path, sizes=SIZES)
    longest = max(encoder.length(row) for row in load_training_data(str(samples)))
    num_too_long = [
        check_file(samples, processor=encoder.processor, max_length=length).counts["too long"]
        for length in (longest, longest - 1)
    ]
    assert num_too_long == [0, 1]
    (tmp_path / "red.png").write_bytes(b"no picture")
    (tmp_path / "blue.png").unlink()
    report = check_file(samples, processor=encoder.processor, max_length=longest)
    assert (report.counts["undecodable image"], report.counts["missing image"]) == (2, 2)

# SPDX-License-Identifier: Apache-2.0
"""Batches: what is padded, where the images go, and that samples learn in a batch what they learn alone."""

import pytest
import torch
from tiny_parts import SENTENCES, VISION_TOWERS, make_image, save_vision_tower

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder


def sample(name: str, *colours: str, answer: str = "a brown dog") -> dict:
    question = "<image>" * len(colours) + "what is in the picture?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    images = {"image": [make_image(colour) for colour in colours]} if colours else {}
    return {"id": name, "conversations": turns, **images}


TEXT = sample("text", answer=SENTENCES[0])
ONE = sample("one", "red")
TWO = sample("two", "blue", "green", answer=SENTENCES[1])


@pytest.fixture
def collator(processor) -> ConversationCollator:
    return ConversationCollator(ConversationEncoder(processor))


def loss_of(model, batch: dict) -> torch.Tensor:
    """The summed loss of a batch's targets."""
    batch = {name: value for name, value in batch.items() if name != "sample_ids"}
    num_targets = (batch["labels"][:, 1:] != -100).sum()
    return model(**batch).loss * num_targets


def test_a_batch_is_padded_at_the_right_and_names_its_samples(collator, processor):
    batch = collator([ONE, TEXT, TWO])
    encoded = [collator.encoder.encode(row) for row in (ONE, TEXT, TWO)]
    lengths = [len(row["input_ids"]) for row in encoded]
    assert len(set(lengths)) == 3
    assert batch["sample_ids"] == ["one", "text", "two"]
    for name in ("input_ids", "attention_mask", "labels"):
        assert (batch[name].shape, batch[name].dtype) == ((3, max(lengths)), torch.int64)
    for position, (row, length) in enumerate(zip(encoded, lengths, strict=True)):
        assert batch["input_ids"][position, :length].tolist() == row["input_ids"]
        assert batch["labels"][position, :length].tolist() == row["labels"]
        assert batch["attention_mask"][position].tolist() == [1] * length + [0] * (max(lengths) - length)
        assert set(batch["input_ids"][position, length:].tolist()) <= {processor.tokenizer.pad_token_id}
        assert set(batch["labels"][position, length:].tolist()) <= {-100}
    assert (batch["labels"][batch["input_ids"] == processor.image_token_id] == -100).all()
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [16, 0, 32]


def test_images_are_in_the_order_of_their_samples(collator, processor):
    batch = collator([ONE, TEXT, TWO])
    expected = [make_image(colour) for colour in ("red", "blue", "green")]
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert torch.equal(batch["pixel_values"], processor.image_processor(expected, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("tower", ["clip", "mobilenet_v2"])
def test_a_batch_of_text_has_no_image_of_the_right_shape(tower, text, tmp_path):
    processor = LangBridgeProcessor.from_vision_text_pretrained(save_vision_tower(tower, tmp_path), text)
    collator = ConversationCollator(ConversationEncoder(processor))
    shape = collator([ONE])["pixel_values"].shape
    batch = collator([TEXT, sample("other")])
    assert batch["pixel_values"].shape == (0, *shape[1:])
    assert batch["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("tower", ["clip", "mobilenet_v2", "siglip", "convnext"])
@pytest.mark.parametrize("activation", ["linear", "gated_softmax"])
def test_a_batch_of_text_trains_where_only_the_adapter_learns(tower, activation, text, tmp_path):
    folder = save_vision_tower(tower, tmp_path)
    processor = LangBridgeProcessor.from_vision_text_pretrained(folder, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        folder, text, list(range(100, 160)), processor, projector_hidden_size=40, coefficient_activation=activation
    )
    model.requires_grad_(False)
    adapter = [model.model.multi_modal_projector, model.model.vocabulary_head]
    parameters = [parameter for module in adapter for parameter in module.requires_grad_(True).parameters()]
    collator = ConversationCollator(ConversationEncoder(processor))
    batch = collator([TEXT, sample("other")])
    loss = loss_of(model, batch)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.count_nonzero() == 0 for parameter in parameters)
    without_images = loss_of(model, {**batch, "pixel_values": None})
    assert loss.item() == pytest.approx(without_images.item(), rel=1e-5)
    loss_of(model, collator([ONE])).backward()
    assert any(parameter.grad.count_nonzero() for parameter in parameters)
    assert VISION_TOWERS[tower][2] == (collator([ONE])["input_ids"] == processor.image_token_id).sum()


def test_samples_learn_in_a_mixed_batch_what_they_learn_alone(collator, model):
    rows = [ONE, TEXT, TWO]
    model.requires_grad_(False)
    projector = model.model.multi_modal_projector.requires_grad_(True)
    together = loss_of(model, collator(rows))
    together.backward()
    gradients = [parameter.grad.clone() for parameter in projector.parameters()]
    model.zero_grad()
    alone = [loss_of(model, collator([row])) for row in rows]
    sum(alone).backward()
    assert together.item() == pytest.approx(sum(loss.item() for loss in alone), rel=1e-5)
    for parameter, gradient in zip(projector.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    assert len({round(loss.item(), 3) for loss in alone}) == 3


def test_images_of_every_size_and_mode_share_a_batch(collator, tmp_path):
    path = tmp_path / "grey.png"
    make_image(size=(300, 20)).convert("L").save(path)
    turns = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a dog"}]
    images = [str(path), {"bytes": path.read_bytes(), "path": None}, make_image(size=(20, 90)).convert("RGBA")]
    batch = collator([{"messages": turns, "images": images[:2]}, {"messages": turns, "images": images[2:]}])
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "gone.jpg"}, r"sample broken: the image gone\.jpg does not exist"),
        ({"image": {"bytes": b"no image", "path": "text.jpg"}}, r"sample broken: the image text\.jpg is of no format"),
        ({"image": None}, "sample broken: 1 <image> placeholders, but 0 images"),
        ({"conversations": 5}, "sample broken: .* is 5, expected"),
    ],
)
def test_a_faulty_sample_is_named_in_its_batch(collator, change, message):
    with pytest.raises(ValueError, match=message):
        collator([TEXT, {**sample("broken", "red"), **change}])


def test_further_columns_are_made_of_the_batchs_samples(processor):
    def count_images(samples: list[dict]) -> dict[str, torch.Tensor]:
        return {"num_images": torch.tensor([len(sample["images"]) for sample in samples])}

    collator = ConversationCollator(ConversationEncoder(processor), {"count": count_images})
    assert collator([ONE, TEXT, TWO])["count"]["num_images"].tolist() == [1, 0, 2]

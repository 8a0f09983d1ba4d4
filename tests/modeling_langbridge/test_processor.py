# SPDX-License-Identifier: Apache-2.0
"""The processor, with any language model's own tokenizer and chat template."""

import pytest
from PIL import Image
from tiny_parts import ask, make_image, make_tokenizer, save_language_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor, AutoTokenizer

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, image_opening


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As multimodal models have it: blocks only.
IN_BLOCKS = (
    "{% for message in messages %}{% for block in message.content %}"
    "{{ '<image>' if block.type == 'image' else block.text }}{% endfor %}{% endfor %}"
)


def with_template(text: str, template: str | None, vision: str) -> LangBridgeProcessor:
    tokenizer = AutoTokenizer.from_pretrained(text)
    tokenizer.chat_template = template
    return LangBridgeProcessor.from_vision_text_pretrained(vision, text, tokenizer=tokenizer)


def test_missing_tokens_and_template_are_added_and_saved(vision, tmp_path):
    text = save_language_model("llama2", tmp_path / "llama2")
    bare = AutoTokenizer.from_pretrained(text)
    assert bare.pad_token is None and bare.chat_template is None
    LangBridgeProcessor.from_vision_text_pretrained(vision, text).save_pretrained(tmp_path / "ours")
    reloaded = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert isinstance(reloaded, LangBridgeProcessor)
    assert reloaded.tokenizer.pad_token == "<pad>" != reloaded.tokenizer.eos_token
    assert reloaded.tokenizer.encode("<image>", add_special_tokens=False) == [reloaded.image_token_id]
    rendered = reloaded.apply_chat_template(ask(make_image()), add_generation_prompt=True)
    assert rendered == "USER: <image>\nwhat is in the picture?\nASSISTANT:"


def test_a_tokenizers_own_pad_token_stays(vision, text):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "<|endoftext|>"
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, tokenizer=tokenizer)
    assert processor.tokenizer.pad_token == "<|endoftext|>"


def test_a_template_of_strings_takes_image_blocks(vision, text):
    processor = with_template(text, CHATML, vision)
    messages = [
        {"role": "system", "content": "Be brief."},
        *ask(make_image()),
        {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]},
        {"role": "user", "content": [{"type": "text", "text": "where?"}, {"type": "image", "image": make_image()}]},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<image>\nwhat is in the picture?<|im_end|>\n"
        "<|im_start|>assistant\na dog<|im_end|>\n"
        "<|im_start|>user\nwhere?\n<image><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


WORDS = {"one": {"type": "text", "text": "one"}, "two ": {"type": "text", "text": "two "}}
IMAGE = {"type": "image"}


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("<image>one", "<image>\none"),
        ("one<image>", "one\n<image>"),
        ("one <image> one", "one <image> one"),
        ("\none \n<image>\n\none\n", "\none \n<image>\n\none\n"),
        ("<image><image>", "<image>\n<image>"),
        ("<image> <image>\n", "<image> <image>\n"),
        ([IMAGE, IMAGE, WORDS["one"]], "<image>\n<image>\none"),
        ([WORDS["one"], WORDS["one"], WORDS["two "], WORDS["one"], IMAGE], "one one two one\n<image>"),
        ([WORDS["two "], IMAGE, WORDS["two "]], "two <image>\ntwo "),
        ([{"type": "text", "text": "one<image>"}, WORDS["one"]], "one\n<image>\none"),
        ([], ""),
    ],
)
def test_parts_of_a_message_without_a_blank_between_them_get_one(vision, text, content, written):
    processor = with_template(text, CHATML, vision)
    rendered = processor.apply_chat_template([{"role": "user", "content": content}])
    assert rendered == f"<|im_start|>user\n{written}<|im_end|>\n"


@pytest.mark.parametrize("answer", [" a dog \n", [{"type": "text", "text": " a"}, {"type": "text", "text": "dog\n"}]])
def test_an_answer_is_trimmed_as_in_training(vision, text, answer):
    processor = with_template(text, CHATML, vision)
    rendered = processor.apply_chat_template([{"role": "assistant", "content": answer}])
    assert rendered == "<|im_start|>assistant\na dog<|im_end|>\n"


def test_strings_render_as_the_original_template_renders_them(vision, text):
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    original = AutoTokenizer.from_pretrained(text).apply_chat_template(messages, chat_template=CHATML, tokenize=False)
    processor = with_template(text, CHATML, vision)
    assert processor.apply_chat_template(messages) == original
    assert processor.tokenizer.apply_chat_template(messages, tokenize=False) == original


def test_a_template_that_reads_blocks_is_left_alone(vision, text):
    assert with_template(text, IN_BLOCKS, vision).chat_template == IN_BLOCKS


@pytest.mark.parametrize("name", ["qwen2", "llama3", "llama2", "mistral", "gpt2", "phi2", "smollm"])
def test_real_tokenizers_read_messages_with_images(data, vision, name):
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name)
    plain = [{"role": "user", "content": "Hello"}]
    original = tokenizer.apply_chat_template(plain, tokenize=False) if tokenizer.chat_template else None
    size = len(tokenizer)
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, "unused", tokenizer=tokenizer)
    inputs = processor.apply_chat_template(
        [ask(make_image()), plain],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    assert inputs.input_ids.eq(processor.image_token_id).sum(1).tolist() == [16, 0]
    assert inputs.attention_mask[1].eq(0).sum() == inputs.attention_mask.shape[1] - inputs.attention_mask[1].sum() > 0
    assert size <= len(processor.tokenizer) <= size + 2
    assert original is None or processor.apply_chat_template(plain) == original


@pytest.mark.parametrize("name", ["llama2", "mistral", "gpt2"])
def test_training_and_inference_begin_with_the_same_tokens(data, vision, name):
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name)
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, "unused", tokenizer=tokenizer)
    messages = [{"role": "user", "content": "Hello"}]
    inference = processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"][0]
    training = processor(text=processor.apply_chat_template(messages), add_special_tokens=False)["input_ids"][0]
    assert inference == training


@pytest.fixture(scope="module")
def with_bos(vision) -> LangBridgeProcessor:
    """Of a tokenizer that puts <|endoftext|> in front of a text; its template does not know of that."""
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = CHATML
    return LangBridgeProcessor.from_vision_text_pretrained(vision, "unused", tokenizer=tokenizer)


def test_a_template_is_made_to_begin_as_the_tokenizer_begins_a_text(with_bos):
    messages = ask(make_image())
    rendered = with_bos.apply_chat_template(messages, add_generation_prompt=True)
    assert rendered.startswith("<|endoftext|><|im_start|>") and rendered.count("<|endoftext|>") == 1
    at_once = with_bos.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert with_bos(text=rendered, images=[make_image()])["input_ids"] == at_once["input_ids"]


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("options", [{}, {"text_kwargs": {"padding": True}}, {"add_special_tokens": True}])
def test_each_text_has_one_beginning(with_bos, kind, options):
    bos, raw = with_bos.tokenizer.bos_token_id, with_bos.tokenizer("a dog", add_special_tokens=False).input_ids
    for texts in (["<|endoftext|>a dog", "a dog"], ["a dog", "a dog"], ["<|endoftext|>a dog"]):
        assert with_bos(text=kind(texts), **options)["input_ids"] == [[bos, *raw]] * len(texts)
    assert with_bos(text="<|endoftext|>a dog", **options)["input_ids"] == [[bos, *raw]]


@pytest.mark.parametrize("options", [{"add_special_tokens": False}, {"text_kwargs": {"add_special_tokens": False}}])
def test_no_beginning_is_added_where_none_is_wanted(with_bos, options):
    written, unwritten = with_bos(text=["<|endoftext|>a dog", "a dog"], **options)["input_ids"]
    assert written == [with_bos.tokenizer.bos_token_id, *unwritten]


def test_a_tokenizer_larger_than_the_embedding_widens_it(vision, tmp_path):
    text = save_language_model("llama3", tmp_path, vocab_size=366)
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, [100, 101], processor=processor, projector_hidden_size=8
    )
    rows = model.get_input_embeddings().num_embeddings
    assert len(processor.tokenizer) == rows == model.config.text_config.vocab_size == 368
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    assert model(**inputs).logits.shape[-1] == 368


def test_the_plain_template_writes_the_token_that_the_tokenizer_begins_with(vision):
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, "unused", tokenizer=tokenizer)
    messages = [{"role": "user", "content": "a dog"}]
    inference = processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"][0]
    training = processor(text=processor.apply_chat_template(messages), add_special_tokens=False)["input_ids"][0]
    assert inference == training
    assert inference[:2].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("images", [0, 2])
def test_more_or_fewer_images_than_placeholders_is_an_error(processor, images):
    with pytest.raises(ValueError, match="<image> tokens in the"):
        processor(text="USER: <image> what?", images=[make_image()] * images or None)


def test_an_image_token_typed_by_a_user_is_an_error(processor):
    message = ask(make_image(), "what does <image> mean?")
    with pytest.raises(ValueError, match="Found total 2 <image> tokens and 1 images"):
        processor.apply_chat_template(message, tokenize=True, return_dict=True)


def test_features_and_placeholders_that_disagree_are_an_error(processor, model):
    inputs = processor.apply_chat_template(ask(make_image()), tokenize=True, return_dict=True, return_tensors="pt")
    inputs["input_ids"] = inputs["input_ids"][:, :-12]
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        model(input_ids=inputs["input_ids"][:, 10:], pixel_values=inputs["pixel_values"])


def test_an_unreadable_image_is_named(processor, tmp_path):
    torn = tmp_path / "torn.jpg"
    Image.effect_noise((64, 64), 50).save(torn)
    torn.write_bytes(torn.read_bytes()[:800])
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path in (torn, text, tmp_path / "absent.jpg"):
        with pytest.raises(ValueError, match=path.name):
            processor(text="<image>", images=[str(path)])


def test_an_oversized_image_and_broken_base64_are_named_in_short(processor, tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    make_image().save(path)
    monkeypatch.setattr(image_opening, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match=r"huge\.png has 48 x 40 pixels, and may have 100"):
        processor(text="<image>", images=[str(path)])
    with pytest.raises(ValueError, match="An image in base64") as caught:
        processor(text="<image>", images=["iVBORw0KGgo" + "A" * 5000])
    assert len(str(caught.value)) < 400


def test_a_block_of_another_kind_is_named(processor):
    with pytest.raises(Exception, match="reads text and images, not audio"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "audio"}]}])


def test_the_number_of_placeholders_is_known_without_an_image(processor):
    counted = processor._get_num_multimodal_tokens(image_sizes=[[10000, 10000], [20, 30]])
    assert (counted.num_image_tokens, counted.num_image_patches) == ([16, 16], [1, 1])

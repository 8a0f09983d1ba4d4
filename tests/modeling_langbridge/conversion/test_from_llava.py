# SPDX-License-Identifier: Apache-2.0
"""A LLaVA lifted into a LangBridge: the same function where the words span the space, an honest figure elsewhere."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from elsewhere import logits_elsewhere
from in_process import run_script_here
from paths import ROOT
from safetensors.torch import load_file, save_file
from tiny_llava import TEMPLATE, all_words, make_llava
from tiny_parts import ask, make_image, save_language_model, save_vision_tower
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaProcessor,
    PixtralImageProcessorPil,
)
from wordy_models import compose

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeProcessor,
    SharedVocabulary,
)
from modeling_langbridge.conversion.from_llava import lift, load_llava


SCRIPT = ROOT / "scripts" / "lift.py"


def prepare(processor, colour: str = "red"):
    return processor.apply_chat_template(
        ask(make_image(colour)), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@torch.no_grad()
def logits_of(model, processor, colour: str = "red") -> torch.Tensor:
    return model(**prepare(processor, colour)).logits


@torch.no_grad()
def visual_tokens(model, processor) -> torch.Tensor:
    return model.get_image_features(prepare(processor)["pixel_values"]).pooler_output[0]


def projector_columns(llava) -> np.ndarray:
    """[W2 b2], `(d, d + 1)`."""
    last = llava.model.multi_modal_projector.linear_2
    return torch.cat([last.weight, last.bias[:, None]], dim=1).detach().double().numpy()


def words_of(model) -> np.ndarray:
    return model.model.get_word_embeddings().double().numpy()


def lose(llava, words: np.ndarray) -> float:
    """What NumPy's own least squares leaves of the projector's columns when they are to be made of words."""
    columns = projector_columns(llava)
    coefficients = np.linalg.lstsq(words.T, columns, rcond=1e-6)[0]
    return np.linalg.norm(words.T @ coefficients - columns) / np.linalg.norm(columns)


def save(llava, processor, folder: Path) -> Path:
    llava.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def parts(vision, text):
    return make_llava(vision, text)


@pytest.fixture(scope="module")
def checkpoint(vision, text, tmp_path_factory) -> Path:
    return save(*make_llava(vision, text), tmp_path_factory.mktemp("run") / "llava")


@pytest.mark.parametrize(
    ("tower", "language_model", "fields"),
    [
        ("clip", "qwen2", {}),
        ("siglip", "llama3", {"vision_feature_layer": -1}),
        ("siglip", "qwen2", {"projector_hidden_act": "relu"}),
        ("clip", "llama2", {"multimodal_projector_bias": False}),
        ("clip", "qwen2", {"vision_feature_layer": [-3, -1]}),
        ("clip", "llama3", {"vision_feature_select_strategy": "full"}),
        ("clip", "llama2", {"tie_word_embeddings": True}),  # by LLaVA, where the language model alone is not
        ("clip", "gemma2", {}),  # scales its embeddings; on its own, caps its logits, which LLaVA does not
    ],
)
def test_logits_and_generations_are_the_llavas(tower, language_model, fields, tmp_path):
    vision = save_vision_tower(tower, tmp_path / "vision")
    text = save_language_model(language_model, tmp_path / "text")
    llava, processor = make_llava(vision, text, **fields)
    llava.generation_config.repetition_penalty = 1.3
    expected = logits_of(llava, processor)
    assert (expected - logits_of(llava, processor, "blue")).abs().max() > 0.1  # the picture is seen
    model, lifted_processor, loss = lift(llava, processor, all_words(processor))
    assert not model.training and loss.rank == loss.width == 32 and loss.error < 1e-6

    model.save_pretrained(tmp_path / "lifted")
    lifted_processor.save_pretrained(tmp_path / "lifted")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "lifted")
    for lifted in (model, loaded):
        torch.testing.assert_close(logits_of(lifted, lifted_processor), expected, rtol=0, atol=1e-4)
        answers = [
            one.generate(**prepare(its), max_new_tokens=12, do_sample=False, eos_token_id=-1)
            for one, its in ((llava, processor), (lifted, lifted_processor))
        ]
        assert torch.equal(*answers)
    tied = llava.config.tie_word_embeddings
    for lifted in (model, loaded):
        assert (lifted.lm_head.weight is lifted.get_input_embeddings().weight) == tied
    for name in {"vision_feature_select_strategy", "image_seq_length", "image_token_index", *fields}:
        assert getattr(loaded.config, name) == getattr(llava.config, name)
    assert loaded.generation_config.repetition_penalty == 1.3


@pytest.mark.parametrize("adapter_type", ["mlp", "linear"])
@pytest.mark.parametrize(
    ("tower", "language_model", "fields"),
    [
        ("clip", "qwen2", {"multimodal_projector_bias": False}),
        ("mobilenet_v2", "phi", {}),  # a feature map, which stock LLaVA cannot read, and an output layer with a bias
        ("siglip", "gemma2", {}),  # which caps its logits, as the LangBridge does
    ],
)
def test_a_langbridge_without_words_keeps_its_logits(tower, language_model, fields, adapter_type, tmp_path):
    vision = save_vision_tower(tower, tmp_path / "vision")
    text = save_language_model(language_model, tmp_path / "text")
    bridge, processor = compose(vision, text, adapter_type=adapter_type, **fields)
    biases = [] if bridge.lm_head.bias is None else [bridge.lm_head.bias]
    for parameter in [*bridge.model.multi_modal_projector.parameters(), *biases]:
        torch.nn.init.normal_(parameter, std=0.3)
    for part in (bridge, processor):
        part.save_pretrained(tmp_path / "bridge")
    bridge, processor = load_llava(str(tmp_path / "bridge"))
    expected = logits_of(bridge, processor)
    assert (expected - logits_of(bridge, processor, "blue")).abs().max() > 1e-3  # the picture is seen
    model, lifted_processor, loss = lift(bridge, processor, all_words(processor))
    assert loss.rank == loss.width and loss.error < 1e-6 and model.config.adapter_type == "langbridge"
    model.save_pretrained(tmp_path / "lifted")
    for lifted in (model, AutoModelForImageTextToText.from_pretrained(tmp_path / "lifted")):
        torch.testing.assert_close(logits_of(lifted, lifted_processor), expected, rtol=0, atol=1e-4)


def test_the_unfolded_adapter_gives_the_same(parts):
    llava, processor = parts
    model, processor, _ = lift(llava, processor, all_words(processor))
    inputs = prepare(processor)
    logits = model(**inputs).logits
    assert not model.model.folded_adapter.map.made  # it would let no gradients through
    torch.testing.assert_close(logits, llava(**inputs).logits, rtol=0, atol=1e-4)


def test_no_weight_is_copied_and_the_llava_goes_on(parts):
    llava, processor = parts
    llava.set_attn_implementation("eager")
    expected = logits_of(llava, processor)
    model, *_ = lift(llava, processor, all_words(processor))
    own = {parameter.data_ptr() for parameter in llava.parameters()}
    new = {name for name, parameter in model.named_parameters() if parameter.data_ptr() not in own}
    assert new == {"model.vocabulary_head.weight", "model.vocabulary_head.bias"}
    assert torch.equal(logits_of(llava, processor), expected)
    for one in (llava, model):
        assert one.model.language_model.config._attn_implementation == "eager"
    # Embeddings beyond the tokenizer's words, which padding to a round number leaves, stay.
    assert len(processor.tokenizer) < 512 == len(model.lm_head.weight) == model.config.text_config.vocab_size


def test_coefficients_are_the_shortest_that_give_the_visual_tokens(parts):
    llava, processor = parts
    model, lifted_processor, _ = lift(llava, processor, all_words(processor))
    with torch.no_grad():
        coefficients = model.get_image_coefficients(prepare(lifted_processor)["pixel_values"])[0].double().numpy()
    tokens = visual_tokens(llava, processor).double().numpy()
    np.testing.assert_allclose(coefficients @ words_of(model), tokens, rtol=0, atol=1e-4 * np.abs(tokens).max())
    shortest = tokens @ np.linalg.pinv(words_of(model))
    np.testing.assert_allclose(coefficients, shortest, rtol=0, atol=1e-4 * np.abs(shortest).max())


def test_coefficients_run_over_the_given_words_in_their_order(parts):
    llava, processor = parts
    words = SharedVocabulary(all_words(processor).surfaces[::-2])
    model, *_ = lift(llava, processor, words)
    token_ids = model.model.vocabulary_head.token_ids.tolist()
    assert SharedVocabulary.from_token_ids(processor.tokenizer, token_ids) == words


def test_too_few_words_lose_what_least_squares_cannot_reach(parts):
    llava, processor = parts
    model, lifted_processor, loss = lift(llava, processor, all_words(processor).first(20))
    expected = lose(llava, words_of(model))
    assert expected > 0.1
    assert (loss.words, loss.rank, loss.width) == (20, 20, 32) and loss.error == pytest.approx(expected, rel=1e-5)
    assert "span 20 of the 32 dimensions" in str(loss) and f"error of {expected:.2g}: " in str(loss)
    assert "only approximates the LLaVA; use at least 32 words" in str(loss)
    assert (logits_of(model, lifted_processor) - logits_of(llava, processor)).abs().max() > 0.01


def test_words_that_do_not_span_the_space_are_noticed_however_many(parts):
    llava, processor = parts
    with torch.no_grad():
        weight = llava.get_input_embeddings().weight
        weight.copy_(weight @ torch.randn(32, 25) @ torch.randn(25, 32))  # of rank 25 but for rounding
    model, _, loss = lift(llava, processor, all_words(processor))
    assert loss.rank == 25 and loss.error == pytest.approx(lose(llava, words_of(model)), rel=1e-4)
    assert "use others or more words" in str(loss)
    assert model.model.vocabulary_head.weight.abs().max() < 1


def test_ridge_shrinks_coefficients_and_costs_accuracy(parts):
    llava, processor = parts
    norms, errors = [], []
    for ridge in (0.0, 0.01, 0.1, 1.0):
        model, _, loss = lift(llava, processor, all_words(processor), ridge)
        norms.append(model.model.vocabulary_head.weight.norm().item())
        errors.append(loss.error)
        assert loss.rank == 32
    assert norms == sorted(norms, reverse=True) and errors == sorted(errors)
    assert norms[0] > 1.5 * norms[-1] and errors[0] < 1e-6 and errors[1] > 1e-3


def test_bfloat16_is_kept_and_stays_close(parts):
    llava, processor = parts
    llava = llava.bfloat16()
    model, lifted_processor, loss = lift(llava, processor, all_words(processor))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16} and 1e-5 < loss.error < 0.01
    expected = logits_of(llava, processor).float()
    difference = (logits_of(model, lifted_processor).float() - expected).abs().max()
    assert difference < 0.02 * expected.abs().max()


def test_an_old_processor_without_sizes_is_completed(parts, tmp_path):
    llava, processor = parts
    old = LlavaProcessor(processor.image_processor, processor.tokenizer, chat_template=TEMPLATE)
    _, lifted, _ = lift(llava, old, all_words(processor))
    lifted.save_pretrained(tmp_path)
    for one in (lifted, LangBridgeProcessor.from_pretrained(tmp_path)):
        assert (one.patch_size, one.vision_feature_select_strategy, one.num_additional_image_tokens) == (
            8,
            "default",
            1,
        )
        assert one.num_image_tokens == 16 and one.chat_template == TEMPLATE and one.image_token == "<image>"
        torch.testing.assert_close(prepare(one)["input_ids"], prepare(processor)["input_ids"])


def test_the_tokenizers_chat_template_will_do(parts):
    llava, processor = parts
    processor.tokenizer.chat_template, processor.chat_template = TEMPLATE, None
    assert lift(llava, processor, all_words(processor))[1].chat_template == TEMPLATE


def test_an_image_token_of_another_name_is_kept(parts):
    llava, processor = parts
    processor.tokenizer.add_tokens(["<picture>"], special_tokens=True)
    other = LlavaProcessor(
        processor.image_processor, processor.tokenizer, chat_template=TEMPLATE, image_token="<picture>"
    )
    lifted = lift(llava, other, all_words(processor))[1]
    assert lifted.image_token == "<picture>" and lifted.num_image_tokens == 16


def test_the_lifted_adapter_goes_to_another_language_model(vision, parts, tmp_path):
    llava, processor = parts
    model, processor, _ = lift(llava, processor, all_words(processor))
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    other = LangBridgeAdapter.from_pretrained(tmp_path / "adapter").join(
        vision, save_language_model("gpt2", tmp_path / "text")
    )[0]
    pixel_values = prepare(processor)["pixel_values"]
    with torch.no_grad():
        coefficients = other.get_image_coefficients(pixel_values)
        torch.testing.assert_close(coefficients, model.get_image_coefficients(pixel_values))
        tokens = other.get_image_features(pixel_values).pooler_output[0]
    torch.testing.assert_close(tokens, coefficients[0] @ other.model.get_word_embeddings(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_script_writes_what_a_fresh_process_loads_without_this_project(checkpoint, tmp_path):
    result = run_script_here(SCRIPT, "--model", checkpoint, "--output_dir", tmp_path / "lifted")
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(r"span 32 of the 32 dimensions .* relative error of \d(\.\d+)?e-0[789]\.\n", result.stdout)
    difference = re.search(r"differ from the LLaVA's by at most (\S+) \(the largest is", result.stdout)
    assert float(difference[1]) < 1e-4
    llava = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    expected = logits_of(llava, LlavaProcessor.from_pretrained(checkpoint))
    found = logits_elsewhere(tmp_path / "lifted", make_image(), tmp_path / "home")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_first_words_that_the_tokenizer_has_are_taken(checkpoint, tmp_path, run_script):
    surfaces = [" unheardof", *all_words(LlavaProcessor.from_pretrained(checkpoint)).surfaces]
    SharedVocabulary(surfaces).save(tmp_path / "words.json")
    options = ("--model", checkpoint, "--output_dir", tmp_path / "lifted", "--vocabulary", tmp_path / "words.json")
    output = run_script(*options, "--vocab_size", 10)
    assert "The 10 words span 10 of the 32 dimensions" in output and "only approximates the LLaVA" in output
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "lifted")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lifted")
    token_ids = model.model.vocabulary_head.token_ids.tolist()
    assert SharedVocabulary.from_token_ids(tokenizer, token_ids).surfaces == tuple(surfaces[1:11])


def test_dtype_and_ridge_reach_the_model(checkpoint, tmp_path, run_script):
    options = ("--model", checkpoint, "--dtype", "bfloat16", "--ridge", 0.5)
    output = run_script(*options, "--output_dir", tmp_path / "lifted")
    error = float(re.search(r"relative error of (\d\.\d+)", output)[1])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "lifted")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert 0.2 < error < 0.5  # of about lambda / (mean squared singular value + lambda)
    config = json.loads((tmp_path / "lifted" / "config.json").read_text())
    assert {config["dtype"], config["text_config"]["dtype"], config["vision_config"]["dtype"]} == {"bfloat16"}


def test_a_folder_that_exists_is_left_alone(checkpoint, tmp_path, run_script):
    (tmp_path / "lifted").mkdir()
    (tmp_path / "lifted" / "mine.txt").write_text("mine")
    message = run_script("--model", checkpoint, "--output_dir", tmp_path / "lifted")
    assert f"lift.py: {tmp_path / 'lifted'} exists and is not an empty folder" in message
    assert [path.name for path in tmp_path.rglob("*")] == ["lifted", "mine.txt"]


def no_folder(copy, request):
    return copy / "absent", "No model can be found at .*absent"


def a_language_model(copy, request):
    return request.getfixturevalue("text"), "is a model of type qwen2: only the architectures of LLaVA 1.5"


def tiny_of(config_class, model_class, folder: Path, checkpoint: Path) -> Path:
    fields = LlavaConfig.from_pretrained(checkpoint)
    config = config_class(vision_config=fields.vision_config, text_config=fields.text_config)
    model_class(config).save_pretrained(folder)
    return folder


def a_llava_onevision(copy, request):
    folder = tiny_of(LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, copy.parent / "one", copy)
    return folder, "is a model of type llava_onevision: only the architectures of LLaVA 1.5"


def a_langbridge_already(copy, request):
    llava, processor = LlavaForConditionalGeneration.from_pretrained(copy), LlavaProcessor.from_pretrained(copy)
    model, processor, _ = lift(llava, processor, all_words(processor))
    return save(model, processor, copy.parent / "langbridge"), "is a LangBridge already"


def a_checkpoint_of_the_first_llava_project(copy, request):
    edit(copy / "config.json", architectures=["LlavaLlamaForCausalLM"])
    return copy, "holds a LlavaLlamaForCausalLM, not transformers' LlavaForConditionalGeneration: convert it"


def a_quantised_one(copy, request):
    in_4_bits = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["model.vision_tower", "lm_head"])
    LlavaForConditionalGeneration.from_pretrained(copy, quantization_config=in_4_bits).save_pretrained(copy)
    return copy, "is quantised: give the same LLaVA in floating point"


def no_processor(copy, request):
    for path in (*copy.glob("*processor_config.json"), *copy.glob("tokenizer*")):
        path.unlink()
    return copy, "There is no LLaVA processor in"


def no_tokenizer(copy, request):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    return copy, "There is no LLaVA processor in"


def no_chat_template(copy, request):
    (copy / "chat_template.jinja").unlink()
    return copy, "processor has no chat template: set `processor.chat_template` .* chat_template.jinja"


def a_processor_of_many_image_sizes(copy, request):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    LlavaProcessor(PixtralImageProcessorPil(), tokenizer, chat_template=TEMPLATE).save_pretrained(copy)
    return copy, r"needs \['image_sizes'\] beside `pixel_values`"


def a_processor_of_tiles(copy, request):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(images, tokenizer, chat_template=TEMPLATE).save_pretrained(copy)
    return copy, "LlavaNextImageProcessorPil does not make images for a model of type llava: give the model's own"


def a_tokenizer_larger_than_the_model(copy, request):
    processor = LlavaProcessor.from_pretrained(copy)
    llava = LlavaForConditionalGeneration.from_pretrained(copy)
    llava.resize_token_embeddings(300)
    llava.save_pretrained(copy)
    assert max(all_words(processor).token_ids(processor.tokenizer)) >= 300
    return copy, "but the language model has 300 embeddings: the processor belongs to another model"


def damaged_weights(copy, request):
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:1000])
    return copy, "model.safetensors is damaged or cut short .*: save or download it again"


def a_missing_weight(copy, request):
    tensors = load_file(copy / "model.safetensors")
    del tensors[next(name for name in tensors if "linear_2.bias" in name)]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy, "lacks 1 weights, such as `model.multi_modal_projector.linear_2.bias`: give a whole checkpoint"


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "fault",
    [
        no_folder,
        a_language_model,
        a_llava_onevision,
        a_langbridge_already,
        a_checkpoint_of_the_first_llava_project,
        a_quantised_one,
        no_processor,
        no_tokenizer,
        no_chat_template,
        a_processor_of_many_image_sizes,
        a_processor_of_tiles,
        a_tokenizer_larger_than_the_model,
        damaged_weights,
        a_missing_weight,
    ],
    ids=lambda fault: fault.__name__,
)
def test_what_cannot_be_lifted_is_refused_in_one_sentence(fault, checkpoint, tmp_path, request, run_script):
    shutil.copytree(checkpoint, tmp_path / "llava")
    folder, sentence = fault(tmp_path / "llava", request)
    before = {path.name for path in tmp_path.iterdir()}
    message = run_script("--model", folder, "--output_dir", tmp_path / "lifted")
    assert message.startswith("lift.py: ") and "\n" not in message
    assert re.search(sentence, message), message
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--ridge", "-1"], "--ridge: must be a number of 0 or more, but is '-1'"),
        (["--vocab_size", "0"], "--vocab_size: must be a whole number of 1 or more, but is '0'"),
        (["--vocabulary", "absent.json"], "there is no vocabulary file absent.json"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_sentence(options, sentence, checkpoint, tmp_path, run_script):
    message = run_script("--model", checkpoint, "--output_dir", tmp_path / "lifted", *options)
    assert message.startswith("lift.py: ") and sentence in message
    assert not list(tmp_path.iterdir())


def test_a_part_of_a_llava_and_unknown_words_are_refused(parts):
    llava, processor = parts
    with pytest.raises(ValueError, match="is a LlavaModel: give a whole LlavaForConditionalGeneration"):
        lift(llava.model, processor, all_words(processor))
    with pytest.raises(ValueError, match="1 of the 1 surfaces are not single tokens"):
        lift(llava, processor, SharedVocabulary([" unheardof"]))

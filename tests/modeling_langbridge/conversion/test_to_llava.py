# SPDX-License-Identifier: Apache-2.0
"""A LangBridge written as a stock LLaVA: the same logits and answers, by transformers alone, or one clear sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_parts import make_image, save_language_model, save_vision_tower
from tiny_training import make_trainer, write_samples
from trained_langbridge import D, H, open_folder, save_trained, see
from transformers import (
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from hub_cards.training_record import TRAINING_RECORD
from modeling_langbridge.conversion.to_llava import to_llava
from trainer.checkpointing.lora_merging import merge_lora
from trainer.data.sources import load_training_data


SCRIPT = SCRIPTS / "export.py"


def assert_same(llava: Path, langbridge: Path) -> None:
    logits, answer = see(*open_folder(langbridge))
    llava_logits, llava_answer = see(*open_folder(llava))
    assert (llava_logits - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert llava_answer == answer


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


@pytest.fixture
def run_export(run_script):
    def run(model: Path, output: Path, *arguments) -> str:
        return run_script("--model", model, "--output_dir", output, *arguments)

    return run


@pytest.fixture
def export(run_export, tmp_path):
    """The folder of the LLaVA that the script makes of a LangBridge."""

    def export(model: Path, *arguments) -> Path:
        output = tmp_path / "llava"
        message = run_export(model, output, *arguments)
        assert "The LLaVA is in" in message, message
        return output

    return export


@pytest.fixture(scope="module")
def langbridge(vision, text, tmp_path_factory) -> Path:
    return save_trained(vision, text, tmp_path_factory.mktemp("run") / "bridge")


@pytest.mark.parametrize(
    ("tower", "language_model", "dtype"),
    [
        ("clip", "qwen2", torch.float32),
        ("clip", "qwen2", torch.bfloat16),  # rounded alike whatever the parts are
        ("siglip", "llama2", torch.float32),
        ("clip", "gpt2", torch.float32),
        ("siglip", "gemma3", torch.float32),
        ("dinov2", "gpt_neox", torch.float32),
        ("vit", "mistral", torch.float32),
    ],
    ids=str,
)
def test_logits_and_answers_are_those_of_the_langbridge(tower, language_model, dtype, tmp_path, export):
    vision = save_vision_tower(tower, tmp_path / "vision")
    text = save_language_model(language_model, tmp_path / "text")
    # What a SigLIP ends in is not its last hidden state: a norm follows.
    layer = -1 if tower == "siglip" else -2
    folder = save_trained(vision, text, tmp_path / "bridge", dtype, vision_feature_layer=layer)
    model, processor = open_folder(folder)
    logits, answer = see(model, processor)
    assert (logits - see(model, processor, "red")[0]).abs().max() > 0.1

    llava, llava_processor = open_folder(export(folder))
    assert type(llava) is LlavaForConditionalGeneration and type(llava_processor) is LlavaProcessor
    assert {parameter.dtype for parameter in llava.parameters()} == {dtype}
    llava_logits, llava_answer = see(llava, llava_processor)
    assert llava_answer == answer
    if dtype == torch.float32:
        allowed = 1e-5 * logits.abs().max()
    else:  # each of the two may be as far from the exact logits as one of them is
        allowed = 2 * (logits - see(model.float(), processor)[0]).abs().max()
    assert (llava_logits - logits).abs().max() <= allowed


@pytest.mark.parametrize(
    "fields",
    [
        {"adapter_type": "mlp"},
        {"adapter_type": "mlp", "multimodal_projector_bias": False},
        {"adapter_type": "linear"},
        {"adapter_type": "linear", "multimodal_projector_bias": False},
        {"multimodal_projector_bias": False},
        {"projector_hidden_size": D},
        {"projector_hidden_act": "sigmoid"},  # sigmoid(0) is 0.5
        {"projector_hidden_act": "prelu"},  # has a parameter
        {"vision_feature_layer": [-2, -1]},
    ],
    ids=str,
)
def test_every_form_of_adapter_that_fits_comes_out_right(fields, vision, text, tmp_path, export):
    folder = save_trained(vision, text, tmp_path / "bridge", **fields)
    assert_same(export(folder), folder)


@torch.no_grad()
def test_the_projector_is_the_adapter_folded_and_the_rest_of_it_zeros(langbridge):
    model, processor = open_folder(langbridge)
    projector = to_llava(model, processor)[0].model.multi_modal_projector
    features = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    bridge = model.model.double()
    coefficients = bridge.vocabulary_head.get_coefficients(bridge.multi_modal_projector(features.double()))
    expected = coefficients @ bridge.get_word_embeddings()
    assert (projector(features) - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert (projector.linear_1.weight.shape, projector.linear_2.weight.shape) == ((D, 24), (D, D))
    assert not projector.linear_1.weight[H:].any() and not projector.linear_2.weight[:, H:].any()
    assert not projector.linear_1.bias[H:].any()


def test_weights_are_folded_before_they_are_rounded(langbridge, export):
    exact = to_llava(*open_folder(langbridge))[0].state_dict()
    folder = export(langbridge, "--dtype", "bfloat16")
    written = load_file(folder / "model.safetensors")
    name = "multi_modal_projector.linear_2.weight"
    key = next(key for key in written if key.endswith(name))
    assert torch.equal(written[key], exact[f"model.{name}"].bfloat16())
    config = read(folder, "config.json")
    assert {config["dtype"], config["text_config"]["dtype"], config["vision_config"]["dtype"]} == {"bfloat16"}


@pytest.mark.parametrize(("language_model", "tied"), [("qwen2", True), ("llama2", False), ("gpt2", False)])
def test_embeddings_are_tied_where_they_were_and_stock_llava_can(language_model, tied, vision, tmp_path, export):
    text = save_language_model(language_model, tmp_path / "text")
    bridge = save_trained(vision, text, tmp_path / "bridge")
    llava, processor = open_folder(export(bridge))
    assert (llava.lm_head.weight is llava.get_input_embeddings().weight) == tied
    llava.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    names = load_file(tmp_path / "again" / "model.safetensors").keys()
    assert any("lm_head" in name for name in names) != tied
    assert_same(tmp_path / "again", bridge)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_weights_are_named_as_in_published_llavas(tower, text, tmp_path, export):
    vision = save_vision_tower(tower, tmp_path / "vision")
    names = set(load_file(export(save_trained(vision, text, tmp_path / "bridge")) / "model.safetensors"))
    assert names >= {
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.encoder.layers.2.mlp.fc1.bias",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_2.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.self_attn.q_proj.weight",
    }
    parts = ("vision_tower.vision_model.", "multi_modal_projector.linear_", "language_model.model.")
    assert all(name.startswith(parts) for name in names)


def test_all_that_generation_and_serving_read_is_the_langbridges(vision, text, tmp_path, export):
    bridge = save_trained(vision, text, tmp_path / "bridge", vision_feature_layer=-1)
    folder = export(bridge)
    config, expected = read(folder, "config.json"), read(bridge, "config.json")
    assert config["architectures"] == ["LlavaForConditionalGeneration"] and config["model_type"] == "llava"
    assert config["text_config"]["architectures"] == ["Qwen2ForCausalLM"]  # vLLM finds the language model by it
    for name in (
        "image_token_index",
        "image_seq_length",
        "vision_feature_layer",
        "vision_feature_select_strategy",
        "vision_config",
        "text_config",
        "tie_word_embeddings",
    ):
        assert config[name] == expected[name], name
    assert config.keys() - expected.keys() == set()
    generation = read(folder, "generation_config.json")
    assert generation == read(bridge, "generation_config.json")
    assert generation["suppress_tokens"] == [config["image_token_index"]] and generation["pad_token_id"] is not None
    assert (folder / "chat_template.jinja").read_text() == (bridge / "chat_template.jinja").read_text()
    assert read(folder, "tokenizer.json") == read(bridge, "tokenizer.json")
    llava, processor = open_folder(folder)
    assert len(processor.tokenizer) <= llava.get_input_embeddings().num_embeddings == llava.lm_head.out_features
    assert (
        llava.config.image_token_id == processor.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")
    )


def test_nothing_in_the_folder_names_this_project_or_asks_for_remote_code(langbridge, export):
    folder = export(langbridge)
    assert {path.name for path in folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for path in folder.glob("*.json"):
        assert not re.search("auto_map|langbridge", path.read_text(), re.IGNORECASE), path


FRESH = """
import sys
sys.modules["modeling_langbridge"] = None
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

folder, picture = sys.argv[1:]
content = [{"type": "image", "path": picture}, {"type": "text", "text": "where is the green dog?"}]
messages = [{"role": "user", "content": content}]
model = AutoModelForImageTextToText.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1]:]
print("by hand:", ascii(processor.decode(answer, skip_special_tokens=True)))
pipe = pipeline("image-text-to-text", model=folder)
answer = pipe(text=messages, max_new_tokens=12, do_sample=False)[0]["generated_text"][-1]["content"]
print("by the pipeline:", ascii(answer))
assert "transformers_modules" not in sys.modules  # code that a checkpoint brought
"""


@pytest.fixture(scope="module")
def lora(langbridge, tmp_path_factory) -> Path:
    """Two steps, so fast that LoRA and adapter move far."""
    folder = tmp_path_factory.mktemp("lora")
    model, processor = open_folder(langbridge)
    dataset = load_training_data(str(write_samples(folder)))
    options = {"train_language_model": "lora", "max_steps": 2, "learning_rate": 0.05}
    trainer = make_trainer(model, processor, dataset, folder / "out", **options)
    trainer.train()
    trainer.save_model()
    return folder / "out"


def test_a_merged_lora_is_exported_and_a_fresh_process_with_transformers_alone_answers_alike(
    langbridge, lora, tmp_path
):
    model, processor, _ = merge_lora(lora)
    model.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    (tmp_path / "merged" / TRAINING_RECORD).write_text("how it was trained")
    arguments = ["--model", tmp_path / "merged", "--output_dir", tmp_path / "llava"]
    exported = run_script_here(SCRIPT, *arguments)
    assert exported.returncode == 0, exported.stderr[-3000:]
    assert "The LLaVA's logits differ from the LangBridge's by at most" in exported.stdout
    assert (tmp_path / "llava" / TRAINING_RECORD).read_text() == "how it was trained"
    assert_same(tmp_path / "llava", tmp_path / "merged")
    logits, answer = see(model, processor)
    assert (logits - see(*open_folder(langbridge))[0]).abs().max() > 0.05

    make_image("green").save(tmp_path / "picture.png")
    result = subprocess.run(
        [sys.executable, "-c", FRESH, tmp_path / "llava", tmp_path / "picture.png"],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    expected = ascii(processor.decode(processor.tokenizer.encode(answer), skip_special_tokens=True))
    assert result.stdout.splitlines() == [f"by hand: {expected}", f"by the pipeline: {expected}"]


def a_projector_too_wide(save, request):
    return save(projector_hidden_size=D + 1), f"is {D + 1}, .* train with a `projector_hidden_size` of at most {D}"


def a_softmax(save, request):
    return save(coefficient_activation="softmax"), "is softmax, .*scripts/transfer.py --distill_images"


def a_gated_softmax(save, request):
    return save(coefficient_activation="gated_softmax"), "is gated_softmax, .*scripts/transfer.py --distill_images"


def picked_words(save, request):
    folder = save(coefficient_activation="softmax", words_per_image=3)
    return folder, "`words_per_image` is 3, .*scripts/transfer.py --distill_images"


def capped_logits(save, request):
    return save(text="gemma2"), "type `gemma2`, caps its logits"


def a_biased_output_layer(save, request):
    return save(text="phi"), "type `phi`, adds a bias to its logits"


def a_convolutional_tower(save, request):
    return save(vision="mobilenet_v2"), "type `mobilenet_v2`, returns a feature map"


def a_quantised_model(save, request):
    quantization = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["model.vision_tower", "lm_head"])
    folder = request.getfixturevalue("langbridge")
    model, processor = open_folder(folder, quantization_config=quantization)
    output = save.folder / "quantised"
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return output, "is quantised: export the same LangBridge in floating point"


def a_bias_that_is_no_number(save, request):
    model, processor = open_folder(request.getfixturevalue("langbridge"))
    model.model.vocabulary_head.bias.data[0] = torch.nan
    model.save_pretrained(save.folder / "damaged")
    processor.save_pretrained(save.folder / "damaged")
    return save.folder / "damaged", "`model.vocabulary_head.bias` in .* holds values that are not finite"


def a_lora(save, request):
    return request.getfixturevalue("lora"), "holds a LoRA: merge it into its base first, with scripts/merge_lora.py"


def a_llava(save, request):
    llava, processor = to_llava(*open_folder(request.getfixturevalue("langbridge")))
    llava.save_pretrained(save.folder / "stock")
    processor.save_pretrained(save.folder / "stock")
    return save.folder / "stock", "stock is a stock LLaVA, not a LangBridge checkpoint: make a LangBridge of it first"


def no_folder(save, request):
    return save.folder / "absent", "absent must be the folder or Hub id of a LangBridge checkpoint"


class Save:
    """Saves a LangBridge of other parts."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, vision: str = "clip", text: str = "qwen2", **fields) -> Path:
        vision = save_vision_tower(vision, self.folder / "vision")
        return save_trained(vision, save_language_model(text, self.folder / "text"), self.folder / "bridge", **fields)


@pytest.mark.parametrize(
    "fault",
    [
        a_projector_too_wide,
        a_softmax,
        a_gated_softmax,
        picked_words,
        capped_logits,
        a_biased_output_layer,
        a_convolutional_tower,
        a_quantised_model,
        a_bias_that_is_no_number,
        a_lora,
        a_llava,
        no_folder,
    ],
    ids=lambda fault: fault.__name__,
)
def test_what_cannot_be_exported_is_refused_in_one_sentence(fault, tmp_path, request, run_export):
    folder, sentence = fault(Save(tmp_path), request)
    before = {path.name for path in tmp_path.iterdir()}
    message = run_export(folder, tmp_path / "llava")
    assert message.startswith("export.py: ") and "\n" not in message
    assert re.search(sentence, message), message
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_model_that_peft_wraps_is_refused(langbridge, lora):
    model, processor = open_folder(langbridge)
    peft_model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    loaded, _ = open_folder(langbridge)
    loaded.load_adapter(lora)
    for wrapped in (peft_model, peft_model.get_base_model(), loaded):
        with pytest.raises(ValueError, match=r"a LoRA.*scripts/merge_lora\.py"):
            to_llava(wrapped, processor)


def test_a_parametrized_model_is_refused(langbridge):
    model, processor = open_folder(langbridge)
    torch.nn.utils.parametrizations.weight_norm(model.model.multi_modal_projector.linear_2)
    with pytest.raises(ValueError, match="`model.multi_modal_projector.linear_2.parametrizations"):
        to_llava(model, processor)


def test_a_folder_that_exists_is_left_alone(langbridge, tmp_path, run_export):
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava" / "mine.txt").write_text("mine")
    assert "exists and is not an empty folder" in run_export(langbridge, tmp_path / "llava")
    assert [path.name for path in tmp_path.rglob("*")] == ["llava", "mine.txt"]

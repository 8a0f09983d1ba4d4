# SPDX-License-Identifier: Apache-2.0
"""A LoRA run merged into its base: the same logits, the adapter with it, no PEFT needed, and nothing else accepted."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from elsewhere import logits_elsewhere
from in_process import run_script_here
from paths import ROOT
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_parts import ask, make_image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from hub_cards.training_record import TRAINING_RECORD
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from modeling_langbridge.conversion.logit_probe import compare_logits, save_in
from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer
from trainer.checkpointing.lora_merging import merge_lora


SCRIPT = ROOT / "scripts" / "merge_lora.py"
WORDS = [" dog", " ball", " a", " the", " red"]
LORA = "adapter_model.safetensors"
IN_4_BITS = BitsAndBytesConfig(  # as scripts/train.py has it
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype="bfloat16",
    llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
)


def save_langbridge(vision: str, text: str, folder: Path, words=WORDS, dtype=torch.float32, **fields) -> Path:
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    torch.manual_seed(0)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision,
        AutoModelForCausalLM.from_pretrained(text, dtype=dtype),
        SharedVocabulary(words),
        processor,
        **{"projector_hidden_size": 40, **fields},
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def train_lora(base: Path, output: Path, quantization: BitsAndBytesConfig | None = None, **options) -> Path:
    """Three steps, so fast that both LoRA and adapter move far."""
    rows = [
        {
            "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": answer}],
            "images": [make_image(colour)],
        }
        for answer, colour in (("a red ball", "red"), ("a blue boat", "blue"))
    ]
    config = LangBridgeSFTConfig(
        output_dir=str(output),
        train_language_model="lora",
        max_steps=3,
        learning_rate=0.05,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **options,
    )
    model = AutoModelForImageTextToText.from_pretrained(base, quantization_config=quantization)
    trained = model.model.language_model.layers[0].mlp.up_proj.weight
    assert trained.is_floating_point() == (quantization is None)
    processor = AutoProcessor.from_pretrained(base)
    trainer = LangBridgeSFTTrainer(model, config, processor, Dataset.from_list(rows))
    trainer.train()
    trainer.save_model()
    return output


@pytest.fixture(scope="module")
def base(vision, text, tmp_path_factory) -> Path:
    return save_langbridge(vision, text, tmp_path_factory.mktemp("run") / "base")


@pytest.fixture(scope="module")
def lora(base) -> Path:
    return train_lora(base, base.parent / "lora")


@pytest.fixture(scope="module")
def merged(lora) -> Path:
    output = lora.parent / "merged"
    result = run_script_here(SCRIPT, "--model", lora, "--output_dir", output)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Merging changed the logits by at most" in result.stdout and "QLoRA" in result.stdout
    return output


@pytest.fixture(scope="module")
def qlora(base) -> Path:
    return train_lora(base, base.parent / "qlora", IN_4_BITS)


@torch.no_grad()
def logits_of(model, processor) -> torch.Tensor:
    """For a picture and a question that neither the training nor the script has seen."""
    inputs = processor.apply_chat_template(
        ask(make_image("green", (60, 44)), "where is the green dog?"),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return model(**inputs).logits


def load_logits(folder: Path) -> torch.Tensor:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    return logits_of(model, AutoProcessor.from_pretrained(folder))


def merge_by_hand(base: Path, lora: Path) -> dict[str, torch.Tensor]:
    """W + (alpha / r) B A for each pair, and what was trained in full as it is, from the files alone."""
    weights, update = load_file(base / "model.safetensors"), load_file(lora / LORA)
    config = json.loads((lora / "adapter_config.json").read_text())
    update = {name.removeprefix("base_model.model."): tensor.double() for name, tensor in update.items()}
    for name, tensor in update.items():
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            change = config["lora_alpha"] / config["r"] * update[f"{layer}.lora_B.weight"] @ tensor
            weights[f"{layer}.weight"] = (weights[f"{layer}.weight"] + change).float()
        elif ".lora_" not in name:
            weights[name] = tensor.to(weights[name].dtype)
    return weights


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **tolerance) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **tolerance)


def test_merged_logits_are_those_of_base_and_lora_and_not_of_the_base(base, lora, merged):
    model = AutoModelForImageTextToText.from_pretrained(base)
    model.load_adapter(lora)
    together = logits_of(model, AutoProcessor.from_pretrained(base))
    torch.testing.assert_close(load_logits(merged), together, rtol=0, atol=1e-5)
    assert (together - load_logits(base)).abs().max() > 0.05


def test_a_base_beside_the_lora_is_found_wherever_both_are_moved(base, lora, tmp_path, monkeypatch):
    assert json_or_text(lora / "adapter_config.json")["base_model_name_or_path"] == "../base"
    for folder in (base, lora):
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.chdir(tmp_path / "base")
    model, _, _ = merge_lora(tmp_path / "lora")
    assert model.name_or_path == str(tmp_path / "base")


def test_both_the_lora_and_the_trained_adapter_are_in_the_merged_weights(base, lora, merged):
    before, after = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    assert_same_tensors(after, merge_by_hand(base, lora), rtol=0, atol=1e-6)
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-3)}
    for part in ("vocabulary_head.weight", "multi_modal_projector.linear_1.weight", "layers.1.mlp.down_proj.weight"):
        assert any(part in name for name in changed), part
    assert not [name for name in changed if "vision_tower" in name or "embed" in name]


def test_the_folder_holds_a_model_and_its_processor_and_nothing_of_the_lora(base, merged):
    assert {path.name for path in merged.iterdir()} == {path.name for path in base.iterdir()} | {TRAINING_RECORD}
    for name in ("generation_config.json", "chat_template.jinja", "processor_config.json", "config.json"):
        assert json_or_text(merged / name) == json_or_text(base / name)
    assert [path.name for path in merged.parent.iterdir() if path.name.startswith(".merged")] == []


def json_or_text(path: Path):
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_text()


@pytest.mark.slow
def test_a_fresh_process_without_peft_and_this_project_loads_it(merged, tmp_path):
    question, before = "where is the green dog?", 'sys.modules["peft"] = None'
    found = logits_elsewhere(merged, make_image("green", (60, 44)), tmp_path / "home", question, before)
    torch.testing.assert_close(found, load_logits(merged), rtol=0, atol=1e-5)


def test_a_lora_learnt_in_4_bits_is_merged_into_the_base_that_was_not_rounded(base, qlora, tmp_path, run_script):
    output = run_script("--model", qlora, "--output_dir", tmp_path / "merged")
    assert "not those of the 4-bit model" in output
    by_hand = merge_by_hand(base, qlora)
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert_same_tensors(written, by_hand, rtol=0, atol=1e-6)
    assert "quantization_config" not in json_or_text(tmp_path / "merged" / "config.json")
    assert (tmp_path / "merged" / TRAINING_RECORD).read_bytes() == (qlora / TRAINING_RECORD).read_bytes()

    expected = AutoModelForImageTextToText.from_pretrained(base)
    expected.load_state_dict(by_hand, strict=False)
    expected = logits_of(expected, AutoProcessor.from_pretrained(base))
    torch.testing.assert_close(load_logits(tmp_path / "merged"), expected, rtol=0, atol=1e-5)
    assert (expected - load_logits(base)).abs().max() > 0.05


def test_another_dtype_rounds_the_weights_once_at_the_end(lora, merged, tmp_path, run_script):
    output = run_script("--model", lora, "--output_dir", tmp_path / "merged", "--dtype", "bfloat16")
    assert "Writing in bfloat16 changed them by" in output
    written = load_file(tmp_path / "merged" / "model.safetensors")
    exact = load_file(merged / "model.safetensors")
    rounded = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in exact.items()}
    assert_same_tensors(written, rounded, rtol=0, atol=0)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    config = json_or_text(tmp_path / "merged" / "config.json")
    assert {config["dtype"], config["text_config"]["dtype"], config["vision_config"]["dtype"]} == {"bfloat16"}


def test_the_dtype_is_the_bases_own_when_none_is_given(vision, text, tmp_path, run_script):
    base = save_langbridge(vision, text, tmp_path / "base", dtype=torch.bfloat16)
    lora = train_lora(base, tmp_path / "lora")
    assert "Writing in bfloat16" in run_script("--model", lora, "--output_dir", tmp_path / "merged")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16


def test_a_vision_tower_trained_by_lora_is_merged_too(base, tmp_path):
    lora = train_lora(base, tmp_path / "lora", train_vision_tower="lora", train_vocabulary_head="frozen")
    model, _, difference = merge_lora(lora)
    assert difference.is_small()
    by_hand = merge_by_hand(base, lora)
    assert any("vision_tower" in name for name in load_file(lora / LORA))
    state = model.state_dict()
    assert_same_tensors({name: state[name] for name in by_hand}, by_hand, rtol=0, atol=1e-6)


def test_a_folder_that_exists_is_left_alone(lora, tmp_path, run_script):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    message = run_script("--model", lora, "--output_dir", tmp_path / "merged")
    assert f"merge_lora.py: {tmp_path / 'merged'} exists and is not an empty folder" in message
    assert [path.name for path in tmp_path.rglob("*")] == ["merged", "mine.txt"]


def test_a_model_that_does_not_come_back_as_it_was_written_is_not_kept(lora, tmp_path):
    model, processor, _ = merge_lora(lora)
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + 1)
    with pytest.raises(ValueError, match="The logits of the reloaded model differ by 1 "):
        save_in(model, processor, tmp_path, torch.float32)


def test_weights_too_large_for_the_dtype_are_refused(lora, tmp_path):
    model, processor, _ = merge_lora(lora)
    model.model.language_model.norm.weight.data.fill_(1e5)
    with pytest.raises(ValueError, match="too large for torch.float16"):
        save_in(model, processor, tmp_path / "merged", torch.float16)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("reference", "difference", "small"),
    [(0.5, 0.9e-5, True), (0.5, 1.1e-5, False), (-40.0, 3.9e-4, True), (40.0, 4.1e-4, False), (0.5, torch.nan, False)],
)
def test_a_difference_is_small_beside_the_largest_logit_or_one(reference, difference, small):
    reference = torch.tensor([[reference, 0.1]], dtype=torch.float64)
    assert compare_logits(reference + torch.tensor([0.0, difference]), reference).is_small() == small


def no_folder(copy, request):
    return copy / "absent", "there is no such folder"


def a_complete_model(copy, request):
    return request.getfixturevalue("base"), "it is a complete model, which needs no merging"


def an_adapter_alone(copy, request):
    return request.getfixturevalue("lora") / "adapter", "it is an adapter alone"


def a_run_that_did_not_end(copy, request):
    shutil.copytree(copy, copy.parent / "run" / "checkpoint-3")
    return copy.parent / "run", r"name one of its checkpoints \(checkpoint-3\)"


def a_damaged_config(copy, request):
    (copy / "adapter_config.json").write_text("{")
    return copy, r"adapter_config.json is damaged"


def a_config_of_no_known_type(copy, request):
    (copy / "adapter_config.json").write_text('{"peft_type": "ALORA"}')
    return copy, r"adapter_config.json is damaged"


def another_method(copy, request):
    IA3Config().save_pretrained(copy)
    return copy, "is of type IA3: only a LoRA can be merged"


def no_weights(copy, request):
    (copy / LORA).unlink()
    return copy, f"There is no .*{LORA}"


def damaged_weights(copy, request):
    (copy / LORA).write_bytes((copy / LORA).read_bytes()[:1000])
    return copy, f"{LORA} is damaged"


def no_processor(copy, request):
    for path in (*copy.glob("*processor_config.json"), *copy.glob("tokenizer*")):
        path.unlink()
    return copy, "There is no LangBridge processor in"


def an_absent_base(copy, request):
    set_base(copy, copy.parent / "absent")
    return copy, r"at .*absent, which `base_model_name_or_path` .* \(there is no such folder\): .* as --base"


def no_base_named(copy, request):
    set_base(copy, None)
    return copy, "`base_model_name_or_path` .* names no model: .* as --base"


def a_base_that_is_a_lora(copy, request):
    set_base(copy, request.getfixturevalue("lora"))
    return copy, "is itself a LoRA: merge that one into its base first"


def a_base_that_is_no_langbridge(copy, request):
    set_base(copy, request.getfixturevalue("text"))
    return copy, "is a model of type qwen2, no LangBridge"


def a_lora_of_a_language_model(copy, request):
    model = AutoModelForCausalLM.from_pretrained(request.getfixturevalue("text"))
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(copy)
    set_base(copy, request.getfixturevalue("base"))
    return copy, "does not fit the base .* is missing in the LoRA but"


def a_base_of_other_layers(copy, request):
    language_model = copy.parent / "language_model"
    shutil.copytree(request.getfixturevalue("text"), language_model)
    model = AutoModelForCausalLM.from_pretrained(language_model, num_hidden_layers=1, layer_types=["full_attention"])
    model.save_pretrained(language_model)
    set_base(copy, save_langbridge(request.getfixturevalue("vision"), str(language_model), copy.parent / "other"))
    return copy, r"layers.1.mlp.down_proj.lora_A.weight` is \[16, 48\] in the LoRA but missing in the base"


def a_base_of_other_sizes(copy, request):
    vision, text = request.getfixturevalue("vision"), request.getfixturevalue("text")
    set_base(copy, save_langbridge(vision, text, copy.parent / "other", projector_hidden_size=24))
    return copy, r"`.*linear_1.bias` is \[40\] in the LoRA but \[24\] in the base"


def a_base_of_other_words(copy, request):
    vision, text = request.getfixturevalue("vision"), request.getfixturevalue("text")
    set_base(copy, save_langbridge(vision, text, copy.parent / "other", words=WORDS[::-1]))
    return copy, "their coefficients run over different words"


def a_base_without_the_new_tokens(copy, request):
    """As PEFT itself saves a LoRA that was trained after a `resize_token_embeddings`."""
    processor = AutoProcessor.from_pretrained(copy)
    processor.tokenizer.add_tokens([f"<new {number}>" for number in range(500)])
    processor.save_pretrained(copy)
    return copy, r"its tokenizer has \d+ tokens, the base \d+ embeddings"


def a_base_saved_in_4_bits(copy, request):
    base = request.getfixturevalue("base")
    model = AutoModelForImageTextToText.from_pretrained(base, quantization_config=IN_4_BITS)
    model.save_pretrained(copy.parent / "quantised")
    set_base(copy, copy.parent / "quantised")
    return copy, "was saved quantised"


def a_damaged_base(copy, request):
    shutil.copytree(request.getfixturevalue("base"), copy.parent / "damaged")
    weights = copy.parent / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    set_base(copy, copy.parent / "damaged")
    return copy, "The base .*damaged cannot be loaded"


def a_lora_that_is_no_number(copy, request):
    tensors = load_file(copy / LORA)
    tensors[next(name for name in tensors if "lora_B" in name)].fill_(torch.nan)
    save_file(tensors, copy / LORA, metadata={"format": "pt"})
    return copy, f"lora_B.weight` in .*{LORA} holds values that are not finite"


def set_base(lora: Path, base: Path | None) -> None:
    config = json.loads((lora / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None if base is None else str(base)
    (lora / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "fault",
    [
        no_folder,
        a_complete_model,
        an_adapter_alone,
        a_run_that_did_not_end,
        a_damaged_config,
        a_config_of_no_known_type,
        another_method,
        no_weights,
        damaged_weights,
        no_processor,
        an_absent_base,
        no_base_named,
        a_base_that_is_a_lora,
        a_base_that_is_no_langbridge,
        a_lora_of_a_language_model,
        a_base_of_other_layers,
        a_base_of_other_sizes,
        a_base_of_other_words,
        a_base_without_the_new_tokens,
        a_base_saved_in_4_bits,
        a_damaged_base,
        a_lora_that_is_no_number,
    ],
    ids=lambda fault: fault.__name__,
)
def test_what_cannot_be_merged_is_refused_in_one_sentence(fault, base, lora, tmp_path, request, run_script):
    shutil.copytree(lora, tmp_path / "lora", ignore=shutil.ignore_patterns("adapter"))
    set_base(tmp_path / "lora", base)  # it is no longer beside it
    folder, sentence = fault(tmp_path / "lora", request)
    before = {path.name for path in tmp_path.iterdir()}
    message = run_script("--model", folder, "--output_dir", tmp_path / "merged")
    assert message.startswith("merge_lora.py: ") and "\n" not in message
    assert re.search(sentence, message), message
    assert {path.name for path in tmp_path.iterdir()} == before

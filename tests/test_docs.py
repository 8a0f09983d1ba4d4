# SPDX-License-Identifier: Apache-2.0
"""The commands and the Python of docs/, in order and as written, where Hub ids are folders with tiny random models.

`documents.NOT_RUN` says what is not run. The README's are followed by test_readme.py, those of beyond_sft.md by
scripts/test_beyond_sft.py.
"""

import ast
import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from clips import make_clip
from documents import follow
from original_langbridge import OriginalLangBridge
from paths import ROOT
from tiny_parts import SENTENCES, make_image, make_tokenizer, save_language_model, save_vision_tower
from tiny_training import COLOURS
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoProcessor, PreTrainedTokenizerFast

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
    to_llava,
)


DOCS = ROOT / "docs"
CLIP, QWEN = "openai/clip-vit-large-patch14-336", "Qwen/Qwen2-0.5B-Instruct"
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"
# Two samples, a step, and no GPU; the paper's width would make the one new adapter large.
ONE_STEP = (
    "--use_cpu true --bf16 false --max_steps 1 --per_device_train_batch_size 2 --gradient_accumulation_steps 1 "
    "--save_strategy no --report_to none --dataloader_num_workers 0"
).split()
OPTIONS = {
    "train.py": [*ONE_STEP, "--tf32", "false"],
    "ground.py": ONE_STEP,
    "pretrain_qwen2_0.5b.yaml": ["--projector_hidden_size", "16"],
    "ground.yaml": ["--projector_hidden_size", "16"],
}


def make_wordy_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that has the paper's 19,200 words, as Qwen 2's and Llama 3's have."""
    tokenizer = make_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = content["model"]["vocab"]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    for surface in SharedVocabulary.qwen2_llama3().surfaces:
        tokens.setdefault(spell(surface)[0][0], len(tokens))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), eos_token=tokenizer.eos_token
    )


def save_photos(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for colour in COLOURS:
        make_image(colour).save(folder / f"{colour}.png")


def save_data(folder: Path) -> None:
    for name in ("images", "album", "flickr8k/images"):
        save_photos(folder / name)
    for name in ("photo.png", "dog.jpg"):
        make_image().save(folder / name)
    captions = [(f"{colour}.png", f"a {colour} ball on the grass") for colour in COLOURS]
    pairs = [
        {"image": image, "caption": caption, "split": split}
        for split in ("dev", "test")
        for image, caption in captions
    ]
    lines = "".join(f"{json.dumps(pair)}\n" for pair in pairs)
    (folder / "flickr8k" / "captions.jsonl").write_text(lines)
    samples = [
        {"image": image, "conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": caption}]}
        for image, caption in captions
    ]
    for name in ("samples", "blip_laion_cc_sbu_558k", "llava_v1_5_mix665k"):
        (folder / f"{name}.json").write_text(json.dumps(samples))
    (folder / "captions.json").write_text(json.dumps(pairs))
    beside = [{**sample, "image": f"images/{sample['image']}"} for sample in samples]
    for name in ("pretrain_flickr8k", "600_of_pretrain_flickr8k"):
        (folder / f"{name}.json").write_text(json.dumps(beside * 8))
    SharedVocabulary.qwen2_llama3(2000).save(folder / "words.json")


def compose(folder: Path, text: str, **fields) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    parts = str(folder / CLIP), str(folder / text)
    processor = LangBridgeProcessor.from_vision_text_pretrained(*parts)
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        *parts, vocabulary, processor, projector_hidden_size=16, **fields
    )
    return model, processor


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """A folder with what the reader of a document has, or downloads by name."""
    folder = tmp_path_factory.mktemp("reader")
    save_data(folder)
    tokenizer = make_wordy_tokenizer()
    for name, kind in ((QWEN, "qwen2"), (LLAMA, "llama3"), ("Qwen/Qwen2-7B-Instruct", "qwen2")):
        save_language_model(kind, folder / name, vocab_size=len(tokenizer))
        tokenizer.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "tokenizers" / "qwen2")
    save_vision_tower("clip", folder / CLIP)
    save_vision_tower("mobilenet_v2", folder / "mobilenetv2_imagenet")
    model, processor = compose(folder, QWEN)
    trained = ("my-langbridge", "my-langbridge-trained", "user/my-langbridge", "runs/pretrain_qwen2_7b")
    for name in trained:
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    for part in to_llava(*compose(folder, LLAMA)):
        part.save_pretrained(folder / "llava-hf" / "llava-1.5-7b-hf")
    grounded, processor = compose(folder, QWEN, coefficient_activation="gated_softmax")
    LangBridgeAdapter.from_model(grounded, processor.tokenizer).save_pretrained(folder / "grounded" / "adapter")
    return folder


@pytest.fixture
def folder(reader, tmp_path) -> Path:
    return shutil.copytree(reader, tmp_path / "reader")


def of(left: dict[str, CompletedProcess], part: str) -> str:
    """What the one command or block with this part printed."""
    (result,) = (result for command, result in left.items() if part in command)
    return result.stdout


def test_training(folder):
    left = follow(DOCS / "training.md", folder, OPTIONS)
    assert "runs/pretrain_qwen2_0.5b" in of(left, "pretrain_qwen2_0.5b.yaml --dataset")
    assert "third" in of(left, "--model two/adapter")
    assert "runs/from_features" in of(left, "--feature_cache features")
    assert list((folder / "features").rglob("features-*.safetensors"))
    assert "4 samples, 0 faulty" in of(left, "check_data.py")
    assert (folder / "clean.json").is_file()
    assert "merged" in of(left, "merge_lora.py")


@pytest.mark.slow
def test_planning(folder):
    left = follow(DOCS / "planning.md", folder, {"plan.py": ["--projector_hidden_size", "16"]})
    assert "| 24GB | " in of(left, "--memory 24GB")
    assert (folder / "plan.json").is_file()


@pytest.mark.slow
def test_grounding(folder):
    shutil.rmtree(folder / "grounded")
    left = follow(DOCS / "grounding.md", folder, OPTIONS)
    assert "grounded" in of(left, "captions.json")
    assert "runs/words_qwen2_0.5b" in of(left, "words_qwen2_0.5b.yaml")
    assert "runs/vlap_qwen2_0.5b" in of(left, "vlap_qwen2_0.5b.yaml")
    assert list((folder / "features").rglob("features-*.safetensors"))


@pytest.mark.slow
def test_transfer(folder):
    left = follow(DOCS / "transfer.md", folder)
    assert "Needs finetuning" in of(left, "--model my-langbridge ")
    assert "my-llama3-words" in of(left, "--model grounded/adapter")


def test_high_resolution(folder):
    assert "is in next." in of(follow(DOCS / "high_resolution.md", folder), "transfer.py")
    assert json.loads((folder / "next" / "config.json").read_text())["model_type"] == "langbridge_next"


def test_hub(folder):
    left = follow(DOCS / "hub.md", folder)
    assert "my-langbridge-trained is a model" in of(left, "--dry_run")


def test_data(tmp_path):
    pretrain, data = tmp_path / "playground/data/LLaVA-Pretrain", tmp_path / "playground/data"
    for rows, image in (
        (pretrain / "blip_laion_cc_sbu_558k.json", pretrain / "images/00453/1.jpg"),
        (data / "llava_v1_5_mix665k.json", data / "coco/train2017/1.jpg"),
    ):
        image.parent.mkdir(parents=True)
        make_image().save(image)
        path = image.relative_to(pretrain / "images" if rows.parent == pretrain else data)
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a dog"}]
        rows.write_text(json.dumps([{"id": "1", "image": str(path), "conversations": turns}]))
    left = follow(DOCS / "data.md", tmp_path)
    assert "ocr_vqa/images" in of(left, "--list")
    assert "1 samples, 0 faulty" in of(left, "LLaVA-Pretrain")
    assert "1 samples, 0 faulty" in of(left, "mix665k")


def test_evaluation(folder):
    pope = folder / "playground/data/eval/pope"
    save_photos(pope / "val2014")
    (pope / "coco").mkdir()
    rows = [{"image": f"{colour}.png", "text": "Is there a ball in the image?", "label": "yes"} for colour in COLOURS]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (pope / "coco" / "coco_pope_random.json").write_text(lines)
    left = follow(DOCS / "evaluation.md", folder)
    assert "| its own picture | no picture | another picture |" in of(left, "--controls")
    assert "| yes share |" in of(left, "coco_pope_random.json")
    assert "Is it real?" in of(left, "--compare compared/A")
    assert (folder / "for-the-hub" / ".eval_results" / "caption.yaml").is_file()
    assert ".eval_results/caption.yaml" in of(left, "for-the-hub/results.json")


def test_lifting(folder):
    assert "holds the LangBridge" in of(follow(DOCS / "lifting.md", folder), "lift.py")


def test_serving(folder):
    left = follow(DOCS / "serving.md", folder)
    assert "The LLaVA is in my-llava" in of(left, "export.py")
    assert of(left, "pipeline(")


@pytest.mark.slow
def test_onnx(folder):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    left = follow(DOCS / "onnx.md", folder)
    adapter = LangBridgeAdapter.from_pretrained(folder / "grounded" / "adapter")
    model, processor = adapter.join(str(folder / CLIP))
    image = processor.open_image(str(folder / "photo.png"))
    with torch.no_grad():
        coefficients = model.get_image_coefficients(**processor.image_processor(image, return_tensors="pt"))
    strongest = coefficients[0].sum(0).topk(8).indices
    assert ast.literal_eval(of(left, "strengths")) == [adapter.vocabulary.surfaces[word] for word in strongest]
    assert "onnx/vision_encoder.onnx" in of(left, "--model")
    beside, config = (each.from_pretrained(folder / "my-onnx") for each in (AutoProcessor, AutoConfig))
    assert beside.image_token_id == config.image_token_index == compose(folder, QWEN)[1].image_token_id


@pytest.mark.slow
def test_reading_words(folder):
    (folder / "photos").symlink_to(folder / "album")
    (folder / "my-other").symlink_to(folder / "my-langbridge")
    for run, steps in (("pretrain", (100, 1000, 2000)), ("finetune", (50,))):
        for step in steps:
            checkpoint = shutil.copytree(folder / "my-langbridge", folder / "runs" / run / f"checkpoint-{step}")
            (checkpoint / "trainer_state.json").write_text("{}")
    shutil.copytree(folder / "my-langbridge", folder / "runs" / "finetune", dirs_exist_ok=True)
    left = follow(DOCS / "reading_words.md", folder)
    for page in ("explained", "compared", "llava-words", "progress", "progress-of-two"):
        assert list((folder / page).rglob("*.html"))
    assert "4 photos, 4 captions" in of(left, "--split test")
    assert "image to text, chance" in of(left, "--output retrieval.json")
    assert 'dog.jpg + "snow" - "grass"' in of(left, "arithmetic.py")


def test_video(folder):
    (folder / "clip.mp4").write_bytes(make_clip(["red"] * 10 + ["blue"] * 30))
    left = follow(DOCS / "video.md", folder)
    assert of(left, "explain.py").startswith("0.0–1.0 s: ")
    assert "holds the pages of 4 of 4 images" in of(left, "explain.py")


def test_vocabulary(folder):
    left = follow(DOCS / "vocabulary.md", folder)
    assert "19200" in of(left, "create_vocab_subset.py").replace(",", "")
    assert (folder / "embeddings" / "Meta-Llama-3-8B-Instruct_19200.safetensors").is_file()


@pytest.mark.slow
def test_conversion(tmp_path):
    tower = save_vision_tower("clip", tmp_path / CLIP)
    original = OriginalLangBridge("llama", tower)
    for part in (original.language_model, original.tokenizer):
        part.save_pretrained(tmp_path / LLAMA)
    original.save(tmp_path / "checkpoints" / "llama3_it_8b_it_vocab_19200_dim_5120_finetune_mmvocab")
    for name in ("vocab", "embeddings"):
        (tmp_path / name).mkdir()
    original.save_vocabulary(tmp_path / "vocab" / "19200_llama3_sub_llava_share_intersect_llama_qwen.json")
    original.save_matrix(tmp_path / "embeddings" / "Meta-Llama-3-8B-Instruct_embedding_matrix_19200.pt")
    follow(DOCS / "conversion.md", tmp_path)
    assert (tmp_path / "my-converted" / "model.safetensors").is_file()


def test_every_document_is_followed():
    # results.md has one command, which takes hours, benchmarks.md some that take minutes, whose options are tested;
    # pretrained_parts.md, versions.md, clients.md and ears.md fetch what they need.
    elsewhere = {"beyond_sft", "benchmarks", "clients", "ears", "results", "pretrained_parts", "versions"}
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in DOCS.glob("*.md")} - elsewhere <= tests

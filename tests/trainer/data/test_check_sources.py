# SPDX-License-Identifier: Apache-2.0
"""check_data.py on everything else than a json that train.py reads, and what it knows of a model."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from in_process import run_script_here
from paths import SCRIPTS
from tiny_parts import make_image

from trainer import check_file, load_training_data, write_clean_rows


SCRIPT = SCRIPTS / "check_data.py"
FORMS = pytest.mark.parametrize("form", ["shards", "parquet", "saved", "split", "Hub"])
ANSWERS = ["a red ball", "", "a blue ball", "a torn ball", "a red ball"]
FAULTS = {(1, "empty answer"), (3, "truncated image"), (4, "duplicate")}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    make_image(colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(form: str, monkeypatch) -> tuple[str, dict[str, str]]:
    """Five samples, three of them faulty; what they are called by, and the options that they need."""
    images = [png(), png(), png("blue"), png()[:-60], png()]
    if form == "shards":
        for name, part in (("0.tar", range(2)), ("1.tar", range(2, 5))):
            with tarfile.open(name, "w") as shard:
                for number in part:
                    for extension, content in (("png", images[number]), ("txt", ANSWERS[number].encode())):
                        member = tarfile.TarInfo(f"{number}.{extension}")
                        member.size = len(content)
                        shard.addfile(member, io.BytesIO(content))
        return "*.tar", {}
    rows = [
        {"image": {"bytes": image, "path": None}, "caption": text} for image, text in zip(images, ANSWERS, strict=True)
    ]
    dataset = Dataset.from_list(rows, features=Features({"image": Image(), "caption": Value("string")}))
    if form == "parquet":
        dataset.to_parquet("rows.parquet")
        return "rows.parquet", {}
    if form == "Hub":
        monkeypatch.setattr("trainer.data.sources.load_dataset", lambda *_, split, **__: {"dev": dataset}[split])
        return "lang/bridge", {"split": "dev"}
    (DatasetDict(dev=dataset) if form == "split" else dataset).save_to_disk("saved")
    return "saved", {"split": "dev"} if form == "split" else {}


@FORMS
def test_every_form_is_checked_and_its_clean_rows_can_be_trained_on(folder, monkeypatch, form):
    name, options = write(form, monkeypatch)
    report = check_file(name, **options)
    found = {(fault.line, kind) for kind, faults in report.examples.items() for fault in faults}
    assert (found, report.num_samples, report.num_clean) == (FAULTS, 5, 2)
    place = f"{name}, row 0"
    assert place in report.examples["duplicate"][0].message
    clean = "clean.tar" if form == "shards" else "clean.parquet" if form == "parquet" else "clean"
    write_clean_rows(report, clean)
    rows = list(load_training_data(clean))
    assert len(rows) == 2 and check_file(clean).counts == {}
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_captions_inside_shards_are_samples_of_their_own(folder):
    with tarfile.open("0.tar", "w") as shard:
        for name, content in (("7.png", png()), ("7.json", b'{"captions": ["a dog", ""], "source": "web"}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    report = check_file("0.tar")
    assert (report.num_samples, report.counts, report.unused_fields) == (2, {"empty answer": 1}, {"source"})
    assert report.examples["empty answer"][0].sample == "7"


def write_json(rows: list[dict]) -> None:
    make_image().save("red.png")
    Path("rows.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("image", "flag"), [("../red.png", "allow_paths_outside"), ("https://p.invalid/a.png", "allow_image_urls")]
)
def test_images_elsewhere_are_faults_unless_a_flag_allows_them(folder, image, flag):
    make_image().save(folder.parent / "red.png")
    write_json([{"image": "red.png", "caption": "a dog"}, {"image": image, "caption": "a cat"}])
    report = check_file("rows.json")
    assert report.counts == {"image elsewhere": 1} and flag in report.examples["image elsewhere"][0].message
    allowed = check_file("rows.json", **{flag: True})
    assert allowed.counts == ({} if flag == "allow_paths_outside" else {"missing image": 1})
    result = run_script_here(SCRIPT, "rows.json", f"--{flag}")
    assert result.returncode == (0 if flag == "allow_paths_outside" else 1)


@pytest.fixture
def saved(folder, processor, model) -> str:
    """A model's folder, of what check_data.py reads: its processor and its configuration."""
    processor.save_pretrained("saved-model")
    model.config.save_pretrained("saved-model")
    return "saved-model"


def test_samples_beyond_the_models_own_context_are_counted(saved, model):
    context = model.config.text_config.max_position_embeddings
    rows = [{"image": "red.png", "caption": "a dog"}, {"image": "red.png", "caption": "dog " * context}]
    write_json(rows)
    result = run_script_here(SCRIPT, "rows.json", "--processor", saved)
    assert result.returncode == 1 and f"Samples may have {context} tokens." in result.stdout
    assert "too long" in result.stdout and "2 samples, 1 faulty" in result.stdout
    Path(saved, "config.json").unlink()  # a processor alone
    result = run_script_here(SCRIPT, "rows.json", "--processor", saved)
    assert result.returncode == 0 and "Samples may have any number of tokens." in result.stdout
    tokenizer = json.loads(Path(saved, "tokenizer_config.json").read_text())
    Path(saved, "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_max_length": context}))
    assert "2 samples, 1 faulty" in run_script_here(SCRIPT, "rows.json", "--processor", saved).stdout


def test_special_tokens_typed_in_texts_are_faults_where_the_tokenizer_has_them(folder, processor):
    token = processor.tokenizer.eos_token
    question = [{"from": "human", "value": f"what is {token}?"}, {"from": "gpt", "value": "a dog"}]
    write_json([{"image": "red.png", "caption": f"a {token} dog"}, {"conversations": question}, {"caption": "</x> a"}])
    assert check_file("rows.json", processor=processor).counts == {"special token": 2}
    assert check_file("rows.json").counts == {}

# SPDX-License-Identifier: Apache-2.0
"""The reproduction on real photos, at tiny sizes: every stage, resuming, the results, and what is refused."""

import json
import shutil

import pytest
from in_process import run_script_here
from little_text import link_with_little_text
from paths import SCRIPTS

from experiments.flickr8k.photo_adapters import load_adapter_onto, train_langbridge, train_mlp
from experiments.flickr8k.photo_finetuning import STARTS
from experiments.flickr8k.photo_world import PhotoWorld, Sizes
from experiments.flickr8k.reproduction import ROWS, reproduce, stages_of
from experiments.stages import claim_output_dir, run_stages
from modeling_langbridge import LangBridgeForConditionalGeneration


SCRIPT = SCRIPTS / "reproduce.py"
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="scoring captions needs Java")


@pytest.fixture(scope="module")
def small_data(data, tmp_path_factory):
    return link_with_little_text(data, tmp_path_factory.mktemp("data"))


def tiny_world(small_data, output_dir, tokenizers=None):
    sizes = Sizes(
        vocab_sizes=(500, 450),
        hidden_sizes=(32, 64),
        num_hidden_layers=1,
        language_model_steps=2,
        language_model_batch_size=4,
        shared_words=100,
        projector_hidden_size=16,
        train_photos=12,
        test_photos=6,
        adapter_steps=2,
        adapter_batch_size=4,
        grounding_steps=2,
        grounding_batch_size=4,
        tuning_steps=2,
        words_per_image=3,
        distillation_steps=2,
        caption_distillation_steps=2,
        grouped_words=3,
        finetuning_steps=(0, 1, 2),
    )
    return PhotoWorld(small_data, output_dir, sizes, adapter_seeds=(0,), tokenizers=tokenizers, seed=0)


@pytest.mark.slow
@needs_java
@pytest.mark.parametrize("tokenizers", [None, ("qwen2", "llama3")], ids=["own", "real"])
def test_all_stages_lead_to_a_table_and_a_second_run_repeats_none(small_data, tmp_path, tokenizers):
    world = tiny_world(small_data, tmp_path / "output", tokenizers)
    reproduce(world)

    results = json.loads((world.output_dir / "results.json").read_text())
    scores = results["scores"]["0"]
    assert scores.keys() == {f"{row}_{name}" for row in ROWS for name in "ab"}
    table = (world.output_dir / "results.md").read_text()
    first = next(line for line in table.splitlines() if "trained with A" in line)
    assert [f"{scores[f'langbridge_{name}']['CIDEr']:.3f}" for name in "ab"] == first.split(" | ")[1:3]
    captions = json.loads((world.output_dir / "captions_0" / "captions.json").read_text())
    bare = json.loads((world.output_dir / "captions" / "captions.json").read_text())
    assert all(captions[row].keys() == bare["blind_a"].keys() for row in captions)
    assert len(captions["langbridge_a"]) == 6 and len(set(bare["blind_a"].values())) == 1
    assert (world.output_dir / "captions.png").stat().st_size > 10_000

    curves = results["curves"]
    assert curves.keys() == STARTS.keys()
    for start, (of_seed,) in curves.items():
        assert all(of_seed[metric].keys() == {"0", "1", "2"} for metric in ("CIDEr", "BLEU-4", "loss"))
        row = next(line for line in table.splitlines() if line.startswith(f"| {STARTS[start]} |"))
        assert [f"{of_seed['CIDEr'][step]:.3f}" for step in "012"] == row.strip("| ").split(" | ")[1:]
    # The same adapter, on other words of the same language model.
    assert curves["raw"][0]["loss"]["0"] != curves["permuted"][0]["loss"]["0"]
    assert (world.output_dir / "learning_curves.png").stat().st_size > 10_000

    model, processor = load_adapter_onto(world, "tuned_0", "b", 3)
    assert model.config.vision_config.model_type == "mobilenet_v2" and model.config.bridge_vocab_size == 100
    assert model.config.words_per_image == processor.num_image_tokens == 3

    distilled, _ = load_adapter_onto(world, "distilled_b_0", "b")
    assert distilled.config.coefficient_activation == "linear"
    assert distilled.config.projector_hidden_size == distilled.config.text_config.hidden_size == 64

    stages = [name for group in stages_of(world) for name in group]
    marks = {name: (world.output_dir / name).stat().st_mtime_ns for name in stages}
    shutil.rmtree(world.output_dir / "captions")
    reproduce(world)
    again = {name: (world.output_dir / name).stat().st_mtime_ns for name in stages}
    assert {name for name in marks if marks[name] != again[name]} == {"captions"}
    assert json.loads((world.output_dir / "captions" / "captions.json").read_text()) == bare


@pytest.mark.slow
def test_only_the_adapters_differ_between_the_models(small_data, tmp_path):
    world = tiny_world(small_data, tmp_path)
    for name, stage in (stage for group in stages_of(world)[:3] for stage in group.items()):
        (tmp_path / name).mkdir()
        stage(tmp_path / name)
    for name in ("mlp_a_0", "langbridge_0"):
        (tmp_path / name).mkdir()
    train_mlp(world, "a", 0, tmp_path / "mlp_a_0")
    train_langbridge(world, "a", 0, tmp_path / "langbridge_0")
    ours = load_adapter_onto(world, "langbridge_0", "a")[0].state_dict()
    theirs = LangBridgeForConditionalGeneration.from_pretrained(tmp_path / "mlp_a_0").state_dict()
    differing = {name for name in ours if name not in theirs or not ours[name].equal(theirs[name])}
    assert all(".multi_modal_projector." in name or ".vocabulary_head." in name for name in differing)
    assert differing


def test_an_interrupted_stage_leaves_nothing_and_finished_ones_stay(tmp_path):
    def first(folder):
        """Writes a file."""
        (folder / "file").write_text("done")

    def second(folder):
        """Is interrupted."""
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages(tmp_path, [{"first": first}, {"second": second}])
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    seconds = run_stages(tmp_path, [{"first": second}, {"second": first}])
    assert (tmp_path / "second" / "file").read_text() == "done" and seconds.keys() == {"first", "second"}


def test_an_output_folder_belongs_to_one_set_of_settings(tmp_path):
    claim_output_dir(tmp_path / "output", {"seed": 0})
    claim_output_dir(tmp_path / "output", {"seed": 0})
    with pytest.raises(FileExistsError, match="other settings"):
        claim_output_dir(tmp_path / "output", {"seed": 1})
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no output of this script"):
        claim_output_dir(tmp_path, {"seed": 0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "output"]


def test_missing_data_is_named_in_one_line(tmp_path):
    result = run_script_here(SCRIPT, "--data", tmp_path, "--output_dir", tmp_path / "output")
    assert result.returncode == 2
    assert str(tmp_path / "caption_text") in result.stderr
    assert not (tmp_path / "output").exists()


def test_without_a_data_folder_the_script_says_how_to_name_it(tmp_path, monkeypatch):
    monkeypatch.delenv("LANGBRIDGE_DATA", raising=False)
    result = run_script_here(SCRIPT, cwd=tmp_path)
    assert result.returncode == 2
    assert "--data" in result.stderr.splitlines()[-1] and "LANGBRIDGE_DATA" in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []

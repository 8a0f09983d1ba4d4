# SPDX-License-Identifier: Apache-2.0
"""`plan.py` tells what a recipe would take, from folders that hold no weights."""

import json
import shutil
from pathlib import Path

import pytest
from paths import SCRIPTS
from tiny_parts import SENTENCES, make_tokenizer, save_other_language_model

from modeling_langbridge import SharedVocabulary


SCRIPT = SCRIPTS / "plan.py"
SMALL = ["--text_tokens", "8", "--report_to", "none", "--memory", "24GB", "--per_device_train_batch_size", "2"]


@pytest.fixture
def parts(vision, text, tmp_path) -> list[str]:
    """A tower and a language model as one has them before anything is downloaded in full."""
    for name, folder in (("tower", vision), ("language_model", text)):
        (tmp_path / name).mkdir()
        for file in Path(folder).iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
    SharedVocabulary.build([make_tokenizer()], SENTENCES, 60).save(tmp_path / "words.json")
    places = {"vision_tower": "tower", "language_model": "language_model", "vocabulary": "words.json"}
    words = [word for name, file in places.items() for word in (f"--{name}", str(tmp_path / file))]
    return [*words, "--projector_hidden_size", "40"]


def read(output: str) -> dict[str, str]:
    """The rows of the printed tables, by their first cell."""
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    return dict(rows)


def test_parts_without_weights_and_the_figures_as_json(run_script, parts, tmp_path):
    output = run_script(*parts, *SMALL, "--json", tmp_path / "plan.json")
    figures = json.loads((tmp_path / "plan.json").read_text())
    assert "  vocabulary_head: trained in full, " in output
    assert figures["trained_parameters"]["language_model"] == 0 < figures["parameters"]["language_model"]
    assert figures["memory_in_all"] == sum(figures["memory"].values())
    assert figures["tokens_of_a_sample"] == figures["visual_tokens_of_an_image"] + 8 == 24
    assert read(output)["24GB"] == str(figures["largest_batch"]["24GB"])
    assert read(output)["**in all**"] == f"**{figures['memory_in_all'] / 2**30:,.1f} GiB**"


def test_a_recipe_and_options_that_win_over_it(run_script, parts):
    recipe = ["--config", SCRIPTS / "recipes" / "finetune_qwen2_0.5b.yaml"]
    small = [*SMALL, "--memory", "1GB"]  # where one sample is already too much, no batch has to be looked for
    output = run_script(*recipe, *parts, *small)
    assert output.startswith("On a GPU in bfloat16 beside float32, checkpointing off;")
    assert "  language_model: trained in full" in output
    output = run_script(*recipe, *parts, *small, "--train_language_model", "frozen", "--activation_checkpointing", "1")
    assert "checkpointing on" in output and "  language_model: frozen" in output


def test_without_a_memory_common_gpus_are_filled(run_script, parts):
    rows = read(run_script(*parts, *SMALL[:-4], "--per_device_train_batch_size", "2"))
    assert int(rows["16GB"]) <= int(rows["24GB"]) <= int(rows["80GB"])


def test_a_model_that_does_not_fit(run_script, parts):
    assert read(run_script(*parts, *SMALL, "--memory", "1GB"))["1GB"] == "does not fit"


def test_all_of_several_language_models_are_counted(run_script, parts, tmp_path):
    other = save_other_language_model(tmp_path / "second")  # whose tokenizer splits some of the words
    (tmp_path / "second" / "model.safetensors").unlink()
    first, place = parts.index("--language_model") + 1, tmp_path / "plan.json"
    small, figures = ["--memory", "1GB", "--activation_checkpointing", "0"], {}
    for name, others in (("one", []), ("twice", [shutil.copytree(parts[first], tmp_path / "copy")]), ("two", [other])):
        several = [*parts[: first - 1], f"--language_model{'s' * bool(others)}", parts[first], *others]
        output = run_script(*several, *parts[first + 1 :], *SMALL, *small, "--json", place)
        figures[name] = json.loads(place.read_text())
        place.unlink()
    size = {name: sum(figures[name]["parameters_of_other_language_models"]) for name in figures}
    assert size["one"] == 0 and size["twice"] == figures["one"]["parameters"]["language_model"]
    assert f"second: frozen, takes turns with the first language model, {size['two']:,} parameters" in output
    for name in ("twice", "two"):  # float32; the rest are a language model's few buffers, and a step that takes more
        more = figures[name]["memory"]["weights"] - figures["one"]["memory"]["weights"]
        assert more == pytest.approx(4 * size[name], rel=0.02)
    assert figures["twice"]["multiply_adds"] == figures["one"]["multiply_adds"] != figures["two"]["multiply_adds"]

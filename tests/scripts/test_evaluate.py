# SPDX-License-Identifier: Apache-2.0
"""scripts/evaluate.py on a tiny model: tables, controls, going on after an interruption, processes, comparisons."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from in_process import run_script_here
from paths import ROOT, SCRIPTS
from refusals import contents_of
from tiny_parts import make_image
from tiny_training import COLOURS, load_script
from transformers import AutoModelForImageTextToText, AutoProcessor
from wordy_models import compose

from hub_cards.eval_results import read_eval_results
from modeling_langbridge import LangBridgeForConditionalGeneration, to_llava
from trainer.evaluation import answering, evaluating
from trainer.evaluation.answer_files import digest_checkpoint


SCRIPT = SCRIPTS / "evaluate.py"
TASKS = "caption,vqa,yes_no,retrieval"


@pytest.fixture(scope="module")
def world(vision, text, tmp_path_factory) -> Path:
    """Two checkpoints, a LLaVA, photos, and a file of questions for each task."""
    folder = tmp_path_factory.mktemp("world")
    model, processor = compose(vision, text, coefficient_activation="gated_softmax", words_per_image=4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)  # fresh weights are so small that all pictures look alike
    for name in ("model", "other"):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        with torch.no_grad():
            model.model.vocabulary_head.weight.neg_()
    mlp, processor = compose(vision, text, adapter_type="mlp")
    for part in to_llava(mlp, processor):
        part.save_pretrained(folder / "llava")
    (folder / "images").mkdir()
    rows: dict[str, list[dict]] = {"captions": [], "vqa": [], "yes_no": []}
    for number, colour in enumerate([*COLOURS, "black", "orange"]):
        image = f"{colour}.png"
        make_image(colour, (48 + 8 * number, 40)).save(folder / "images" / image)
        captions = [f"a {colour} ball on the grass", f"the {colour} ball near a dog"]
        rows["captions"].append({"image": image, "captions": captions, "split": "test"})
        for question, answers in (("what is it?", ["ball", "a dog"]), ("which colour?", [colour] * 10)):
            rows["vqa"].append({"image": image, "question": question, "answers": answers})
        for thing, label in (("ball", "yes"), ("boat", "no")):
            rows["yes_no"].append(
                {"question_id": number, "image": image, "text": f"is there a {thing}?", "label": label}
            )
    for name, of_task in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in of_task))
    return folder


def run(world: Path, output: Path, *options: object, model: str = "model", tasks: str = TASKS):
    files = {"caption": "captions", "vqa": "vqa", "yes_no": "yes_no", "retrieval": "captions"}
    data = [world / f"{files[task]}.jsonl" for task in tasks.split(",")]
    command = ["--model", world / model, "--tasks", tasks, "--data", *data, "--output_dir", output]
    return run_script_here(SCRIPT, *command, "--max_new_tokens", 3, *options)


def scored(output: Path, task: str, shown: str = "its own picture") -> list[dict]:
    rows = map(json.loads, (output / task / "scored.jsonl").read_text().splitlines())
    return [row for row in rows if row["shown"] == shown]


@pytest.fixture(scope="module")
def evaluated(world, tmp_path_factory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("evaluated") / "evaluation"
    result = run(world, output, "--controls", "--batch_size", 5)
    assert result.returncode == 0, result.stderr[-3000:]
    return output, result.stdout


def test_every_task_has_a_table_with_intervals_and_controls(evaluated):
    output, printed = evaluated
    assert (output / "results.md").read_text().strip() in printed
    controls = "| its own picture | no picture | another picture | its words as text |"
    assert all(f"| {task} {controls}" in printed for task in ("caption", "vqa", "yes_no"))
    assert "| retrieval | its own picture | no picture | another picture |" in printed
    for name in ("CIDEr", "BLEU-4", "ROUGE-L", "VQA accuracy", "accuracy", "precision", "recall", "F1", "yes share"):
        (row,) = (line for line in printed.splitlines() if line.startswith((f"| {name} |", f"| {name} (plain")))
        assert row.count("[") == 4, row
    assert "6 of 6 questions" in printed and "images per second" in printed
    assert "image to text, recall@1 |" in printed


def test_rows_hold_the_prompt_the_answer_the_reference_and_the_score(evaluated):
    rows = scored(evaluated[0], "vqa")
    assert [row["key"] for row in rows] == list(range(12))
    assert rows[1]["prompt"].startswith("which colour?") and rows[1]["references"] == ["red"] * 10
    assert rows[1]["picture"].endswith("red.png") and set(rows[1]["score"]) == {"VQA accuracy"}
    captions = scored(evaluated[0], "caption")
    assert len(captions) == 6 and all(isinstance(row["answer"], str) for row in captions)


def test_controls_change_the_picture_and_nothing_else(evaluated, world):
    shown = {name: scored(evaluated[0], "vqa", name) for name in ("its own picture", "no picture", "another picture")}
    own, none, another = shown.values()
    assert [row["prompt"] for row in own] == [row["prompt"] for row in none] == [row["prompt"] for row in another]
    assert len({row["answer"] for row in none if row["prompt"].startswith("what is it?")}) == 1
    # Each question's other picture gives what that picture's own question gives, and never its own.
    colours = [row["answer"] for row in own[1::2]]
    assert len(set(colours)) > 1
    assert sorted(row["answer"] for row in another[1::2]) == sorted(colours)
    words = scored(evaluated[0], "vqa", "its words as text")
    assert all(row["prompt"].startswith("The picture shows: ") for row in words)
    assert words[0]["prompt"].count(",") == 3  # four words an image


def test_without_its_picture_retrieval_is_chance(evaluated):
    printed = evaluated[1]
    (row,) = (line for line in printed.splitlines() if line.startswith("| image to text, recall@1 |"))
    assert row.split("|")[3].strip().startswith("0.167 ")


def test_results_are_in_the_form_that_publishing_takes(evaluated, world):
    results = load_script("push_to_hub").read_results(evaluated[0] / "results.json")
    assert len(results) == 3 + 1 + 6 + 6
    (found,) = (result for result in results if result.metric == "vqa: VQA accuracy")
    assert found.dataset == "vqa.jsonl" and "[" in found.value
    assert "--data captions.jsonl vqa.jsonl" in found.command and str(world) not in found.command


def test_the_answers_are_the_same_at_any_batch_size_also_of_a_processor_that_pads_on_the_right(world, tmp_path):
    config = world / "llava" / "tokenizer_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "padding_side": "right"}))
    for size in (1, 16):
        result = run(world, tmp_path / str(size), "--batch_size", size, model="llava", tasks="vqa")
        assert result.returncode == 0, result.stderr[-2000:]
    assert scored(tmp_path / "1", "vqa") == scored(tmp_path / "16", "vqa")


def test_answers_closer_to_the_picture_are_kept_apart_and_are_the_same_without_it(world, evaluated, tmp_path):
    output = tmp_path / "closer"
    result = run(world, output, "--guidance_scale", 3, "--word_bias", 2, "--controls", tasks="caption,retrieval")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "6 of 6 questions, guidance_scale 3, word_bias 2," in result.stdout
    assert "6 of 6 questions\n" in result.stdout  # retrieval asks nothing that is decoded
    changed = {
        shown: scored(output, "caption", shown) != scored(evaluated[0], "caption", shown)
        for shown in ("its own picture", "another picture", "no picture", "its words as text")
    }
    assert list(changed.values()) == [True, True, False, False]
    compared = run_script_here(SCRIPT, "--compare", evaluated[0], output)
    assert "B is" in compared.stdout, compared.stderr
    assert compared.stdout.count("model with guidance_scale 3, word_bias 2.\n") == 1
    refused = run(world, output, "--guidance_scale", 3, tasks="caption")
    assert "holds answers of a run whose `word_bias` is 2.0, not None" in refused.stderr


def test_a_model_without_words_is_told_so_before_it_is_asked(world, tmp_path):
    result = run(world, tmp_path / "llava", "--word_bias", 2, model="llava", tasks="caption")
    assert "`word_bias` reads a LangBridge's words, not llava: leave it out" in result.stderr
    assert not (tmp_path / "llava").exists()


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(world, evaluated, tmp_path, monkeypatch):
    calls, whole = [], answering.answer

    def stop(*arguments):
        calls.append(len(arguments[2]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(answering, "answer", stop)
    stopped = run(world, tmp_path / "run", "--batch_size", 5, tasks="vqa")
    assert stopped.returncode == 130 and "The same command goes on" in stopped.stderr
    answers = tmp_path / "run" / "vqa" / "answers-0.jsonl"
    assert len(answers.read_text().splitlines()) == 10
    answers.write_text(answers.read_text()[:-20])  # a line that was being written
    assert run(world, tmp_path / "run", "--batch_size", 5, tasks="vqa").returncode == 0
    assert calls[3:] == [3]
    assert scored(tmp_path / "run", "vqa") == scored(evaluated[0], "vqa")


def test_more_samples_and_controls_go_on_from_fewer(world, evaluated, tmp_path, monkeypatch):
    assert run(world, tmp_path / "run", "--max_samples", 4, "--controls", tasks="vqa").returncode == 0
    result = (tmp_path / "run" / "results.json").read_text()
    assert "test, the first 4 of 12" in result
    asked = []
    whole = answering.answer
    monkeypatch.setattr(answering, "answer", lambda *given: asked.append(len(given[2])) or whole(*given))
    assert run(world, tmp_path / "run", "--controls", tasks="vqa").returncode == 0
    assert asked == [8, 8, 8, 8]
    for shown in ("its own picture", "another picture"):
        assert scored(tmp_path / "run", "vqa", shown) == scored(evaluated[0], "vqa", shown)


def test_a_finished_run_is_measured_again_without_asking(world, tmp_path, monkeypatch):
    first = run(world, tmp_path / "run", tasks="yes_no")
    assert "questions/s" not in first.stderr  # no progress bar in a log
    monkeypatch.setattr(answering, "answer", None)
    again = run(world, tmp_path / "run", tasks="yes_no")
    assert again.returncode == 0 and first.stdout.splitlines()[4:] == again.stdout.splitlines()[4:]


def test_answers_of_another_model_or_to_other_questions_are_refused(world, tmp_path):
    output = tmp_path / "run"
    assert run(world, output, tasks="vqa", model="model").returncode == 0
    before = contents_of(output)
    for options, sentence in (
        ({"model": "other"}, "holds answers of another model"),
        ({"options": ["--max_new_tokens", 5]}, "whose `max_new_tokens` is 3, not 5"),
        ({"options": ["--dtype", "bfloat16"]}, "whose `dtype` is None, not 'bfloat16'"),
    ):
        options = {"options": [], "model": "model", **options}
        result = run(world, output, *options["options"], model=options["model"], tasks="vqa")
        assert result.returncode == 1 and sentence in result.stderr, result.stderr
    result = run(world, output, "--max_new_tokens", 5, tasks="yes_no,vqa")  # nothing of the first task is left either
    assert result.returncode == 1
    lines = (world / "vqa.jsonl").read_text().replace("what is it", "what is that")
    other = tmp_path / "other"
    other.mkdir()
    (other / "vqa.jsonl").write_text(lines)
    shutil.copytree(world / "images", other / "images")
    shutil.copytree(world / "model", other / "model")
    result = run(other, output, tasks="vqa")
    assert result.returncode == 1 and "whose `questions` is" in result.stderr
    assert contents_of(output) == before


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "config.json", "model.safetensors"])
def test_a_model_with_another_file_is_another_model(world, tmp_path, name):
    model = shutil.copytree(world / "model", tmp_path / "model")
    before = digest_checkpoint(str(model))
    (model / "training_record.json").write_text("[]")
    assert digest_checkpoint(str(model)) == before == digest_checkpoint(str(world / "model"))
    (model / name).write_bytes((model / name).read_bytes() + b" ")
    assert digest_checkpoint(str(model)) != before


def test_a_damaged_file_of_answers_is_named(world, tmp_path):
    assert run(world, tmp_path / "run", tasks="vqa").returncode == 0
    answers = tmp_path / "run" / "vqa" / "answers-0.jsonl"
    answers.write_text("{}\n" + answers.read_text())
    result = run(world, tmp_path / "run", tasks="vqa")
    assert result.returncode == 1 and "answers-0.jsonl, line 1 is no answer of this script" in result.stderr


def test_hub_datasets_give_results_in_the_hubs_form(world, tmp_path):
    result = run(world, tmp_path / "run", "--hub_datasets", "user/colours", "--max_samples", 6, tasks="yes_no")
    assert result.returncode == 0, result.stderr
    (entry,) = read_eval_results(tmp_path / "run")
    assert (entry.dataset_id, entry.task_id) == ("user/colours", "yes_no") and 0 <= entry.value <= 1
    assert entry.notes.startswith("accuracy, 95 % interval") and "the first 6 of 12" in entry.notes


def test_two_folders_are_compared_question_by_question(world, evaluated, tmp_path):
    assert run(world, tmp_path / "other", model="other").returncode == 0
    result = run_script_here(SCRIPT, "--compare", evaluated[0], tmp_path / "other")
    assert result.returncode == 0, result.stderr
    for task in TASKS.split(","):
        assert f"| {task} | A | B | B - A | p |" in result.stdout
    assert result.stdout.count("Is it real?") == 4
    itself = run_script_here(SCRIPT, "--compare", evaluated[0], evaluated[0])
    assert "Not shown: a difference in VQA accuracy of +0.000 could be chance (p = 1.000)" in itself.stdout


def test_a_real_difference_is_called_real(world, tmp_path):
    for name, answer in (("a", "no"), ("b", "yes")):
        assert run(world, tmp_path / name, tasks="yes_no").returncode == 0
        path = tmp_path / name / "yes_no" / "answers-0.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [{**row, "answer": answer if row["references"] == ["yes"] else "no"} for row in rows]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    result = run_script_here(SCRIPT, "--compare", tmp_path / "a", tmp_path / "b")
    assert "Is it real? Yes: B has the higher accuracy, by 0.500 (p = 0.03" in result.stdout
    turned = run_script_here(SCRIPT, "--compare", tmp_path / "b", tmp_path / "a")
    assert "Is it real? Yes: A has the higher accuracy" in turned.stdout and "| -0.500 [" in turned.stdout


def test_two_checkpoints_are_evaluated_and_compared_by_one_command(world, tmp_path):
    command = ["--compare", world / "model", world / "other", "--tasks", "yes_no", "--data", world / "yes_no.jsonl"]
    result = run_script_here(SCRIPT, *command, "--output_dir", tmp_path / "both", "--max_new_tokens", 3)
    assert result.returncode == 0, result.stderr
    assert f"A is {world / 'model'}, B is {world / 'other'}." in result.stdout
    assert scored(tmp_path / "both" / "A", "yes_no") != scored(tmp_path / "both" / "B", "yes_no")


def test_folders_that_were_not_asked_the_same_are_not_compared(world, evaluated, tmp_path):
    assert run(world, tmp_path / "fewer", "--max_samples", 4, tasks="vqa").returncode == 0
    result = run_script_here(SCRIPT, "--compare", evaluated[0], tmp_path / "fewer")
    assert result.returncode == 1 and "8 questions are answered in only one of" in result.stderr
    assert run(world, tmp_path / "longer", "--max_new_tokens", 5, tasks="vqa").returncode == 0
    result = run_script_here(SCRIPT, "--compare", evaluated[0], tmp_path / "longer")
    assert result.returncode == 1 and "`max_new_tokens` is 3 and 5" in result.stderr
    assert run(world, tmp_path / "captions", tasks="caption").returncode == 0
    result = run_script_here(SCRIPT, "--compare", tmp_path / "captions", tmp_path / "fewer")
    assert result.returncode == 1 and "have no task in common" in result.stderr


def test_trust_in_remote_code_reaches_the_model_and_the_processor(world, tmp_path, monkeypatch):
    trusted = []
    for auto in (AutoModelForImageTextToText, AutoProcessor):
        load = auto.from_pretrained

        def note(name, load=load, **options):
            trusted.append(options["trust_remote_code"])
            return load(name, **options)

        monkeypatch.setattr(auto, "from_pretrained", note)
    assert run(world, tmp_path / "run", "--trust_remote_code", tasks="vqa").returncode == 0
    assert run(world, tmp_path / "llava", model="llava", tasks="vqa").returncode == 0
    assert trusted == [True, True, False, False]


def test_every_task_can_be_asked_in_other_words(world, tmp_path):
    prompts = ["--prompts", "Name it.", "Answer yes or no."]
    assert run(world, tmp_path / "run", *prompts, tasks="caption,yes_no").returncode == 0
    assert {row["prompt"] for row in scored(tmp_path / "run", "caption")} == {"Name it."}
    asked = {row["prompt"] for row in scored(tmp_path / "run", "yes_no")}
    assert asked == {"is there a ball?\nAnswer yes or no.", "is there a boat?\nAnswer yes or no."}


def test_a_second_run_of_the_same_folder_is_kept_out(world, tmp_path):
    state = evaluating.PartialState(cpu=True)
    assert run(world, tmp_path / "run", tasks="vqa").returncode == 0
    with evaluating.writing(tmp_path / "run", state):
        result = run(world, tmp_path / "run", tasks="vqa")
    assert result.returncode == 1 and "Another run is writing to" in result.stderr


@pytest.fixture(scope="module")
def examples(world) -> Path:
    """Answered questions about two further pictures, which nothing else asks about."""
    rows = []
    for name in ("white", "purple"):
        make_image(name).save(world / "images" / f"{name}.png")
        rows.append({"image": f"{name}.png", "question": "which colour?", "answer": name, "split": "train"})
    path = world / "examples.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_examples_change_the_answers_and_are_part_of_what_is_asked(world, evaluated, examples, tmp_path):
    few = ["--num_fewshot", 2, "--fewshot_data", examples]
    result = run(world, tmp_path / "run", *few, tasks="vqa")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "12 of 12 questions, num_fewshot 2, " in result.stdout
    (found, *_) = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["split"] == "test, num_fewshot 2"
    before, after = (scored(folder, "vqa") for folder in (evaluated[0], tmp_path / "run"))
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    assert [row["answer"] for row in before] != [row["answer"] for row in after]
    assert run(world, tmp_path / "run", *few, tasks="vqa").returncode == 0
    fewer = run(world, tmp_path / "run", "--num_fewshot", 1, "--fewshot_data", examples, tasks="vqa")
    assert fewer.returncode == 1 and "holds answers of a run whose `questions` is" in fewer.stderr


def test_examples_are_of_the_split_train_of_the_same_file(world, tmp_path):
    rows = [json.loads(line) for line in (world / "captions.jsonl").read_text().splitlines()]
    rows = [{**row, "split": "train" if place in (1, 4) else "test"} for place, row in enumerate(rows)]
    path = world / "splits.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = ["--model", world / "model", "--tasks", "caption,retrieval", "--data", path, path, "--max_new_tokens", 3]
    results = [
        run_script_here(SCRIPT, *command, "--output_dir", tmp_path / name, "--num_fewshot", count)
        for name, count in (("two", 2), ("three", 3))
    ]
    assert results[0].returncode == 0 and "4 of 4 questions, num_fewshot 2" in results[0].stdout
    assert "4 of 4 questions\n\n| retrieval" in results[0].stdout  # it asks nothing
    assert results[1].returncode == 1 and "--num_fewshot is 3, but" in results[1].stderr


@pytest.mark.slow
def test_two_processes_share_the_questions_and_measure_what_one_measures(world, evaluated, tmp_path):
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        SCRIPTS / "accelerate" / "ddp.yaml",
    ]
    command += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    command += [SCRIPT, "--model", world / "model", "--tasks", TASKS, "--data"]
    command += [world / f"{name}.jsonl" for name in ("captions", "vqa", "yes_no", "captions")]
    command += ["--output_dir", tmp_path / "run", "--max_new_tokens", "3", "--controls"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(map(str, command), capture_output=True, text=True, timeout=500, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-4000:]
    for task in TASKS.split(","):
        assert scored(tmp_path / "run", task) == scored(evaluated[0], task)
    for process in (0, 1):
        assert len((tmp_path / "run" / "vqa" / f"answers-{process}.jsonl").read_text().splitlines()) == 4 * 6


def test_the_checkpoint_is_not_changed(world, tmp_path):
    before = contents_of(world / "model")
    assert run(world, tmp_path / "run", tasks="vqa").returncode == 0
    assert contents_of(world / "model") == before
    assert LangBridgeForConditionalGeneration.from_pretrained(world / "model").config.words_per_image == 4

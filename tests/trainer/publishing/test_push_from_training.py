# SPDX-License-Identifier: Apache-2.0
import pytest
from huggingface_hub import ModelCard
from paths import SCRIPTS
from tiny_training import write_samples

from modeling_langbridge import SharedVocabulary
from trainer import LangBridgeSFTConfig


pytest_plugins = "hub_fixtures"

LOADS = """
from transformers import AutoModelForImageTextToText, AutoProcessor
for revision in sys.argv[1:]:
    where = {"trust_remote_code": True, "revision": revision}
    AutoModelForImageTextToText.from_pretrained("user/trained", **where)
    AutoProcessor.from_pretrained("user/trained", **where)
print("loaded")
"""


@pytest.fixture
def train(publisher, vision, text, tmp_path):
    def train(script: str, repo_id: str, *options: str) -> None:
        SharedVocabulary([" dog", " ball", " a", " the", " red"]).save(tmp_path / "vocabulary.json")
        samples = write_samples(tmp_path, 6, text_only=lambda index: False)
        command = [SCRIPTS / script, "--vision_tower", vision, "--dataset", samples, *options]
        command += ["--vocabulary", tmp_path / "vocabulary.json", "--projector_hidden_size", "24"]
        command += ["--output_dir", tmp_path / "out", "--max_steps", "2", "--save_steps", "1", "--use_cpu"]
        command += ["--report_to", "none", "--push_to_hub", "--hub_model_id", repo_id]
        result = publisher.run(*command)
        assert result.returncode == 0, result.stderr[-3000:]

    return train


def pushes(hub, repo_id: str) -> dict[str, dict[str, bytes]]:
    """The files of every commit but the first, which the Hub itself makes."""
    return dict(list(hub.repositories[repo_id].commits.items())[1:])


@pytest.mark.slow
def test_every_push_of_a_training_run_can_be_loaded_and_holds_no_pickles_or_logs(train, hub, client, text, published):
    train("train.py", "user/trained", "--language_model", text, "--bf16", "false")
    commits = pushes(hub, "user/trained")
    assert len(commits) == 2 * 3  # two checkpoints and the end, each of files and a card
    of_the_script = {name for name in hub.repositories["user/model"].files if "model-" not in name}
    expected = {*of_the_script, "model.safetensors", "training_record.json"} - {"model.safetensors.index.json"}
    for files in commits.values():
        assert set(files) | {"README.md"} == expected
    assert client.load(LOADS, *commits) == "loaded\n"
    card = ModelCard(hub.repositories["user/trained"].files["README.md"].decode())
    assert card.data.pipeline_tag == "image-text-to-text" and "How it was trained" in card.text
    assert f'revision="{list(commits)[-2]}"' in card.text


def test_a_grounding_run_publishes_its_adapter(train, hub, text):
    train("ground.py", "user/grounded", "--tokenizer", text, "--hub_strategy", "end")
    commits = list(pushes(hub, "user/grounded").values())
    assert len(commits) == 2
    expected = {"README.md", "adapter.safetensors", "config.json", "training_record.json", "vocabulary.json"}
    assert set(commits[-1]) == {*expected, ".gitattributes"}
    assert "Grounding in words" in commits[-1]["README.md"].decode()


def test_a_push_that_fails_at_a_checkpoint_loses_nothing_and_training_goes_on(train, hub, text, tmp_path):
    hub.commits_left = 2  # those of the first checkpoint
    try:
        with pytest.raises(AssertionError, match="The connection to the Hub broke off"):  # of the last push
            train("train.py", "user/dropped-in-training", "--language_model", text, "--bf16", "false")
    finally:
        hub.commits_left = None
    assert len(pushes(hub, "user/dropped-in-training")) == 2
    for folder in ("out/checkpoint-1", "out/checkpoint-2", "out"):
        assert (tmp_path / folder / "model.safetensors").is_file()


def test_what_cannot_be_pushed_as_a_repository_is_refused_before_training(tmp_path):
    options = {"output_dir": str(tmp_path), "push_to_hub": True, "bf16": False, "use_cpu": True}
    with pytest.raises(ValueError, match="merge the LoRA, then use scripts/push_to_hub.py"):
        LangBridgeSFTConfig(**options, train_language_model="lora")
    with pytest.raises(ValueError, match="pushes go to `main`"):
        LangBridgeSFTConfig(**options, hub_revision="dev")
    with pytest.raises(ValueError, match="would publish the optimizer's pickles: take every_save or end"):
        LangBridgeSFTConfig(**options, hub_strategy="checkpoint")

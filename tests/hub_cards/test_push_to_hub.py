# SPDX-License-Identifier: Apache-2.0
"""Publishing: what is sent and what is not, going on after an interruption, and every refusal in one sentence."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import pytest
from hub_clients import CARD, OTHER_TOKEN, SCRIPT, TOKEN
from hub_server import Repository, digest
from huggingface_hub import EvalResultEntry
from paths import ROOT
from PIL import Image
from refusals import contents_of

from hub_cards.eval_results import write_eval_results
from hub_cards.repository import NEXT_CODE
from modeling_langbridge import SharedVocabulary


pytest_plugins = "hub_fixtures"

PUSHES = """
import sys
from pathlib import Path
from hub_cards.facts import CardFacts
from hub_cards.pushing import push_folder

folder, *cases = sys.argv[1:]
for case in cases:
    repo_id, token, visibility, license = case.split()
    try:
        push_folder(Path(folder), repo_id, CardFacts(license=license), token=token, private=visibility == "private")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""

WITHOUT_WAITING = """
import runpy, sys, time
time.sleep = lambda seconds: None  # huggingface_hub tries again for 23 seconds
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def copy(folders, tmp_path) -> Path:
    return shutil.copytree(folders / "model", tmp_path / "copy")


def test_a_model_is_published_whole_and_nothing_else_with_it(hub, published, folders):
    repository = hub.repositories["user/model"]
    shards = {path.name for path in (folders / "model").glob("model-*.safetensors")}
    code = {path.name for path in (ROOT / "modeling_langbridge").glob("*.py")} - {"__init__.py", *NEXT_CODE}
    assert len(shards) > 1 and "modeling_langbridge.py" in code
    assert set(repository.commits[published["model"]]) == {
        ".gitattributes",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        *code,
        *shards,
    }
    assert all((folders / "model" / name).read_bytes() == repository.files[name] for name in shards)


def test_the_card_comes_after_the_files_and_is_pinned_to_their_commit(hub, published):
    for kind in ("model", "adapter", "vocabulary", "llava"):
        repository = hub.repositories[f"user/{kind}"]
        assert "README.md" not in repository.commits[published[kind]]
        later = [files["README.md"].decode() for files in repository.commits.values() if "README.md" in files]
        assert published[kind] in later[0]


def test_a_dry_run_tells_what_would_be_sent_and_neither_sends_nor_writes(run_script, folders, hub):
    before, requests = sorted(folders.rglob("*")), len(hub.requests)
    printed = run_script("--folder", folders / "model", "--repo_id", "user/dry", *CARD, "--dry_run")
    listed, rest = printed.split("Left out: ")
    left_out, card = rest.split(".\nThe card, README.md:\n")
    size = (folders / "model" / "config.json").stat().st_size
    assert f"{size:,}  config.json" in listed
    assert {"adapter", "extra.py", "optimizer.pt", "trainer_state.json"} < set(left_out.split(", "))
    assert "pipeline_tag: image-text-to-text" in card
    assert sorted(folders.rglob("*")) == before and len(hub.requests) == requests


def test_an_interrupted_push_goes_on_where_it_was(publisher, hub, folders):
    weights = sorted((folders / "model").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    for path in weights:
        hub.objects.pop(digest(path.read_bytes()), None)
    hub.received.clear()
    hub.drop_after, hub.drops = weights[-1].stat().st_size - 1, 6
    command = ["--folder", folders / "model", "--repo_id", "user/dropped", *CARD]
    result = publisher.run("-c", WITHOUT_WAITING, SCRIPT, *command)
    sentence = result.stderr.partition("push_to_hub.py: ")[2]
    assert result.returncode == 1 and hub.drops == 0
    assert "broke off" in sentence and weights[-1].name in sentence and "run the same command again" in sentence
    assert set(hub.repositories["user/dropped"].files) == {".gitattributes"}
    *others, largest = [digest(path.read_bytes()) for path in weights]
    assert sorted(hub.received) == sorted(others)

    result = publisher.push(folders / "model", "user/dropped", *CARD)
    assert result.returncode == 0, result.stderr[-3000:]
    assert sorted(hub.received[:-1]) == sorted(others) and hub.received[-1] == largest
    assert "README.md" in hub.repositories["user/dropped"].files


def test_a_push_that_breaks_off_before_the_card_says_what_is_there(publisher, hub, folders):
    hub.commits_left = 1
    printed = publisher.printed(PUSHES, folders / "vocabulary", f"user/cardless {TOKEN} public mit")
    hub.commits_left = None
    repository = hub.repositories["user/cardless"]
    assert set(repository.files) == {".gitattributes", "vocabulary.json"}
    assert repository.main in printed and "add --exist_ok" in printed and "broke off" in printed


def test_what_the_hub_refuses_is_told_in_one_sentence(publisher, hub, published, folders):
    for name, private in {"other/hidden": True, "other/open": False}.items():
        hub.repositories[name] = Repository("other", private)
        hub.repositories[name].commit({})
    before = {name: repository.main for name, repository in hub.repositories.items()}
    expected = {
        f"user/new {'hf_' + 'c' * 34} public mit": ("PermissionError", "does not accept the token"),
        f"user/adapter {TOKEN} public mit": ("FileExistsError", "--exist_ok"),
        f"user/adapter {TOKEN} private mit": ("FileExistsError", "make it private"),
        f"other/hidden {TOKEN} public mit": ("PermissionError", "may not write"),
        f"other/open {TOKEN} public mit": ("PermissionError", "may not write"),
        f"user/name.ipynb {TOKEN} public mit": ("ValueError", 'cannot end with ".ipynb"'),
    }
    expected[f"user/new {TOKEN} public unheard-of"] = ("ValueError", "does not accept the card")
    secret = f"user/secret {TOKEN} private mit"
    printed = publisher.printed(PUSHES, folders / "vocabulary", *expected, secret).splitlines()
    assert len(printed) == len(expected)
    for line, (error, part) in zip(printed, expected.values(), strict=True):
        assert line.startswith(error) and part in line
    assert {name: hub.repositories[name].main for name in before} == before
    assert hub.repositories["user/secret"].private
    assert "user/new" not in hub.repositories


def test_what_a_token_may_not_read_is_told_in_one_sentence(publisher, hub):
    for name, options in {"user/hidden": {"private": True}, "user/gated": {"gated": True}}.items():
        hub.repositories[name] = Repository("user", **options)
        hub.repositories[name].commit({"vocabulary.json": b'[" dog"]'})
    code = """
from modeling_langbridge import SharedVocabulary
for name in ("user/hidden", "user/gated"):
    try:
        SharedVocabulary.from_pretrained(name)
    except OSError as error:
        print(error)
"""
    hidden, gated = publisher.printed(code, token=OTHER_TOKEN).splitlines()
    assert hidden.startswith("There is no folder user/hidden")
    assert "user/gated" in gated and "gated repo" in gated


def test_an_adapter_and_a_vocabulary_push_their_files_and_no_card(hub, published):
    adapter, bare = hub.repositories["user/adapter"].files, hub.repositories["user/bare-adapter"].files
    assert bare == {name: data for name, data in adapter.items() if name != "README.md"}
    vocabulary = hub.repositories["user/bare-vocabulary"]
    assert vocabulary.private and json.loads(vocabulary.files["vocabulary.json"]) == [" dog"]
    assert set(vocabulary.files) == {".gitattributes", "vocabulary.json"}


def test_pushing_over_an_earlier_push_leaves_none_of_its_files_to_be_loaded_instead(publisher, hub, copy, folders):
    repository = hub.repositories["user/again"] = Repository("user")
    mine = {"evaluation.txt": b"mine", "LICENSE": b"mine"}
    lora = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"old"}
    repository.commit({"model.safetensors": b"old", "README.md": b"old", **lora, **mine})
    picture = folders / "picture.png"
    assert publisher.push(copy, "user/again", *CARD, "--exist_ok", "--photos", picture, picture).returncode == 0
    assert not repository.files.keys() & {"model.safetensors", *lora} and "config.json" in repository.files
    assert repository.files.items() >= mine.items()
    assert b"words.png" in repository.files["README.md"] != b"old"
    width, height = Image.open(BytesIO(repository.files["words.png"])).size
    assert width == 2 * height  # two photos of square patches, side by side


def test_results_are_published_with_the_hubs_form_of_them_beside_them(publisher, run_script, hub, copy, tmp_path):
    measured = tmp_path / "evaluation"
    for folder, value in ((measured, 0.7), (copy, 0.6)):
        entry = EvalResultEntry(dataset_id="user/data", task_id="caption", value=value)
        write_eval_results(folder, "caption", [entry])
    (measured / "results.json").write_text("[]")
    before = contents_of(copy)
    options = [*CARD, "--results", measured / "results.json"]
    printed = run_script("--folder", copy, "--repo_id", "user/measured", *options, "--dry_run")
    assert printed.count(".eval_results/caption.yaml") == 1
    result = publisher.push(copy, "user/measured", *options)
    assert result.returncode == 0, result.stderr[-2000:]
    files = hub.repositories["user/measured"].files
    assert files[".eval_results/caption.yaml"] == (measured / ".eval_results" / "caption.yaml").read_bytes()
    card = files["README.md"].decode()
    assert "| `caption` | `0.7` |" in card and "0.6" not in card
    assert "results.json" not in files and contents_of(copy) == before


def without(name):
    return lambda folder: (folder / name).unlink()


def make_adapter_of_old(folder: Path):
    (folder / "config.json").rename(folder / "adapter.json")
    (folder / "vocabulary.json").write_text("[]")
    (folder / "adapter.safetensors").touch()


def set_model_type(folder: Path):
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))


REFUSED = {
    "no processor": (without("processor_config.json"), "processor_config.json"),
    "no tokenizer": (without("tokenizer.json"), "tokenizer.json"),
    "no code": (without("modeling_langbridge.py"), "modeling_langbridge.py"),
    "no code that other code needs": (without("image_opening.py"), "which modeling_langbridge.py imports"),
    "no index of weights": (without("model.safetensors.index.json"), "model.safetensors"),
    "no first weights": (
        lambda folder: next(folder.glob("model-00001-*")).unlink(),
        "model-00001-of-",
    ),
    "neither config nor vocabulary": (without("config.json"), "neither a config.json nor a vocabulary.json"),
    "an adapter without its config": (make_adapter_of_old, "`LangBridgeAdapter.save_pretrained`"),
    "another model": (set_model_type, "'qwen2'"),
    "damaged config": (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
    "a LoRA": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "scripts/merge_lora.py"),
    "no folder": (shutil.rmtree, "There is no folder"),
}


@pytest.mark.parametrize(("spoil", "part"), REFUSED.values(), ids=REFUSED)
def test_a_folder_that_is_not_whole_is_refused(spoil, part, copy, run_script):
    spoil(copy)
    sentence = run_script("--folder", copy, "--repo_id", "user/copy", *CARD)
    assert sentence.startswith("push_to_hub.py: ") and part in sentence and "\n" not in sentence


@pytest.mark.parametrize("repo_id", ["a/b/c", "user/my model", "user/-x", "user/x.git", "user/" + "x" * 100])
def test_a_name_that_the_hub_takes_from_nobody_is_refused(repo_id, folders, run_script):
    assert "takes no repository called" in run_script("--folder", folders / "model", "--repo_id", repo_id, *CARD)


def test_a_push_without_a_token_says_how_to_get_one(folders, run_script, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "hf auth login" in run_script("--folder", folders / "model", "--repo_id", "user/x", *CARD)


def test_a_card_that_lacks_its_base_model_is_refused(copy, run_script):
    config = json.loads((copy / "config.json").read_text())
    for part in ("vision_config", "text_config"):
        config[part].pop("_name_or_path")
    (copy / "config.json").write_text(json.dumps(config))
    assert "base model" in run_script("--folder", copy, "--repo_id", "user/x").replace("_", " ")


@pytest.mark.parametrize(
    ("content", "part"), [("{", "must hold"), ('{"metric": 1}', "must hold"), ('[{"colour": 1}]', "colour")]
)
def test_results_of_another_form_are_refused(content, part, folders, run_script, tmp_path):
    (tmp_path / "results.json").write_text(content)
    options = ["--folder", folders / "model", "--repo_id", "user/x", *CARD, "--results", tmp_path / "results.json"]
    sentence = run_script(*options)
    assert part in sentence and "results.json" in sentence


def test_photos_of_what_cannot_read_them_are_refused(folders, run_script, tmp_path):
    SharedVocabulary([" a"]).save(tmp_path / "vocabulary.json")
    options = ["--folder", tmp_path, "--repo_id", "user/x", *CARD, "--photos", folders / "picture.png"]
    assert "is a vocabulary" in run_script(*options)

# SPDX-License-Identifier: Apache-2.0
"""The one loader: a whole checkpoint is loaded; a broken one is refused in one sentence, and nothing is built."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import save_langbridge
from transformers import LlavaConfig

from modeling_langbridge import LangBridgeAdapter
from modeling_langbridge.adapter.kinds import check_language_model, check_vision_tower
from modeling_langbridge.adapter.loading import open_language_model, open_model


WEIGHTS = "model.safetensors"
HEAD = "model.vocabulary_head.weight"
LAYER = "model.language_model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(vision, text, composed, tmp_path_factory) -> Path:
    return Path(save_langbridge(vision, text, composed[1], tmp_path_factory.mktemp("whole")))


@pytest.fixture
def checkpoint(whole, tmp_path) -> Path:
    """A copy of the checkpoint, to be broken."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def edit_config(part: str | None = None, **fields) -> Callable[[Path], None]:
    """Changes fields of config.json, or of a part of it; `None` takes a field out."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        target = config if part is None else config[part]
        target.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del target[name]
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def spoil(name: str, value: float) -> Callable[[Path], None]:
    return edit_weights(lambda tensors: tensors[name].view(-1)[3].fill_(value))


def cut_short(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def index_of(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(content)

    return write


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


SHARDS = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
BROKEN = {
    "no_vocabulary_head": (edit_weights(lambda t: t.pop(HEAD)), f"lacks 1 weights .* such as `{HEAD}`"),
    "no_layer": (edit_weights(lambda t: t.pop(LAYER)), f"lacks 1 weights .* such as `{LAYER}`"),
    "a_foreign_tensor_of_the_adapter": (
        edit_weights(lambda t: t.update({"model.vocabulary_head.gate_bias": torch.ones(1)})),
        "has 1 weights .* such as `model.vocabulary_head.gate_bias`",
    ),
    "a_foreign_tensor": (
        edit_weights(lambda t: t.update({"model.language_model.layers.2.extra": torch.ones(1)})),
        "has 1 weights .* such as `model.language_model.layers.2.extra`",
    ),
    "a_tensor_of_another_shape": (
        edit_weights(lambda t: t.update({HEAD: torch.ones(60, 41)})),
        rf"`{HEAD}` in .* is \[60, 41\], but its config.json says \[60, 40\]",
    ),
    "nan_in_the_adapter": (spoil(HEAD, torch.nan), f"`{HEAD}` in .*{WEIGHTS} holds values that are not finite"),
    "infinity_in_the_language_model": (spoil(LAYER, -torch.inf), f"`{LAYER}` in .*{WEIGHTS} holds values"),
    "weights_cut_short": (cut_short, f"{WEIGHTS} is damaged or cut short .*: save or download it again"),
    "weights_that_are_text": (write(WEIGHTS, "weights"), f"{WEIGHTS} is damaged or cut short"),
    "a_pickle": (pickled, "holds pytorch_model.bin, a pickle, .*: convert it to safetensors"),
    "no_weights": (remove(WEIGHTS), f"There is no {WEIGHTS} in .*: save the model"),
    "an_absent_shard": (index_of(SHARDS), "There is no model-00002-of-00002.safetensors in .*, which its index names"),
    "an_index_without_a_map": (index_of("[]"), "index.json is damaged, it has no `weight_map`"),
    "no_text_config": (edit_config(text_config=None), "config.json in .* has no `text_config`"),
    "a_text_config_without_type": (edit_config("text_config", model_type=None), "has no `text_config` with a `model"),
    "no_vision_config": (edit_config(vision_config=None), "config.json in .* has no `vision_config`"),
    "a_vocabulary_larger_than_the_tokens": (edit_config(bridge_vocab_size=10**9), "`bridge_vocab_size` is 1000000000"),
    "another_number_of_words": (
        edit_config(bridge_vocab_size=61),
        r"is \[60, 40\], but its config.json says \[61, 40\]",
    ),
    "a_projector_without_bounds": (edit_config(projector_hidden_size=10**12), "describes no model"),
    "a_hundred_thousand_layers": (
        edit_config("text_config", num_hidden_layers=10**5, layer_types=None),
        "describes 100,000 layers, but its weights are",
    ),
    "more_layers_than_weights": (
        edit_config("text_config", num_hidden_layers=30, layer_types=None),
        "lacks .* weights that its config.json describes, such as `model.language_model.layers.2",
    ),
    "a_number_as_text": (edit_config(projector_hidden_size="wide"), "config.json in .* is damaged .*projector_hidden"),
    "a_type_that_does_not_exist": (
        edit_config("text_config", model_type="nonsense"),
        "`text_config.model_type` in .* is 'nonsense'",
    ),
    "a_config_that_is_no_json": (write("config.json", "{"), "config.json is damaged, it is not JSON"),
    "a_config_that_is_a_list": (write("config.json", "[]"), "config.json is damaged, it must hold a JSON object"),
    "no_config": (remove("config.json"), r"must be the folder or Hub id of a LangBridge .*config.json"),
    "no_processor": (remove("processor_config.json"), "The processor in .* cannot be loaded"),
    "a_tokenizer_that_is_no_json": (write("tokenizer.json", "{"), "The processor in .* cannot be loaded"),
    "a_lora": (write("adapter_config.json", "{}"), "holds a LoRA: .*scripts/merge_lora.py"),
    "a_stock_llava": (edit_config(model_type="llava"), "is a stock LLaVA, not a LangBridge .*scripts/lift.py"),
    "a_language_model": (edit_config(model_type="qwen2"), "is a language model of type qwen2, .*--language_model"),
    "a_tower": (edit_config(model_type="clip_vision_model"), "is a model of type clip_vision_model, .*--vision_tower"),
    "an_adapter_alone": (edit_config(model_type="langbridge_adapter"), "is an adapter alone, .*scripts/transfer.py"),
}


@pytest.mark.parametrize(("fault", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_broken_checkpoint_is_refused_by_name(checkpoint, fault, sentence):
    fault(checkpoint)
    with pytest.raises(ValueError, match=sentence) as refusal:
        open_model(str(checkpoint), device_map=None)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 700


def test_a_file_in_place_of_a_folder_is_refused(checkpoint):
    with pytest.raises(ValueError, match=f"{WEIGHTS} is a file: name the folder"):
        open_model(str(checkpoint / WEIGHTS))


def test_a_whole_checkpoint_is_loaded_as_it_was_saved(whole):
    model, processor = open_model(str(whole), device_map=None, dtype=torch.float32)
    saved = load_file(whole / WEIGHTS)
    state = model.state_dict()
    assert not model.training and len(saved) > 20 and all(torch.equal(state[name], saved[name]) for name in saved)
    assert processor.image_token_id == model.config.image_token_index


def test_shards_are_read_one_after_another(whole, tmp_path):
    model, processor = open_model(str(whole), device_map=None)
    for part in (model, processor):
        part.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if part is model else {}))
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert torch.equal(open_model(str(tmp_path), device_map=None)[0].lm_head.weight, model.lm_head.weight)


MEASURE = """
import resource, sys
from modeling_langbridge.adapter.loading import open_model
from modeling_langbridge.utils.files import first_line
try:
    open_model(sys.argv[1])
except ValueError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, first_line(error))
"""


def test_a_model_that_the_weights_do_not_have_is_never_allocated(checkpoint):
    """Here a Llama of 7B, which transformers would build of a `text_config` that says no sizes."""
    edit_config(text_config={"model_type": "llama"})(checkpoint)
    command = [sys.executable, "-c", MEASURE, str(checkpoint)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    kilobytes, _, sentence = found.partition(" ")
    assert int(kilobytes) < 2 * 2**20 and "config.json says" in sentence


@pytest.fixture(scope="module")
def places(whole, vision, text, tmp_path_factory) -> dict[str, str]:
    """A folder of each kind."""
    folder = tmp_path_factory.mktemp("places")
    model, processor = open_model(str(whole), device_map=None)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")
    LlavaConfig().save_pretrained(folder / "llava")
    (folder / "lora").mkdir()
    (folder / "lora" / "adapter_config.json").write_text("{}")
    kinds = {name: str(folder / name) for name in ("adapter", "llava", "lora")}
    return {**kinds, "langbridge": str(whole), "tower": vision, "language_model": text}


@pytest.mark.parametrize(
    ("check", "place", "sentence"),
    [
        (
            check_vision_tower,
            "language_model",
            "vision tower .* is a language model of type qwen2: .*--language_model",
        ),
        (check_vision_tower, "langbridge", r"vision tower .* is a whole LangBridge: give it as the model \(--model\)"),
        (check_vision_tower, "adapter", "vision tower .* is an adapter alone: join it"),
        (check_vision_tower, "llava", "vision tower .* is a stock LLaVA: .*scripts/lift.py"),
        (check_vision_tower, "lora", "holds a LoRA"),
        (check_language_model, "tower", "language model .* is a model of type clip_vision_model: .*--vision_tower"),
        (check_language_model, "langbridge", "language model .* is a whole LangBridge"),
        (check_language_model, "adapter", "language model .* is an adapter alone"),
        (check_language_model, "llava", "language model .* is a stock LLaVA: .*scripts/lift.py"),
        (check_language_model, "lora", "holds a LoRA"),
        (open_language_model, "tower", "language model .* is a model of type clip_vision_model"),
    ],
)
def test_a_part_in_the_wrong_place_is_told_its_own(places, check, place, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        check(places[place])
    assert len(str(refusal.value)) < 400


def test_parts_in_their_places_pass(places):
    check_vision_tower(places["tower"])
    check_language_model(places["language_model"])


def test_a_join_refuses_parts_in_the_wrong_place(places):
    adapter = LangBridgeAdapter.from_pretrained(places["adapter"])
    with pytest.raises(ValueError, match="The vision tower .* is a language model"):
        adapter.join(places["language_model"], places["tower"])
    with pytest.raises(ValueError, match="The language model .* is a model of type clip_vision_model"):
        adapter.join(places["tower"], places["tower"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight"), "lacks 1 weights .*layers.0.mlp.up_proj.weight"),
        (
            lambda t: t["model.norm.weight"].fill_(torch.nan),
            "`model.norm.weight` in .* holds values that are not finite",
        ),
    ],
    ids=["a_weight_missing", "a_weight_that_is_no_number"],
)
def test_a_broken_language_model_is_refused_by_name(text, tmp_path, change, sentence):
    folder = Path(shutil.copytree(text, tmp_path / "text"))
    edit_weights(change)(folder)
    with pytest.raises(ValueError, match=sentence):
        open_language_model(str(folder))

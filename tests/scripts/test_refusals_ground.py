# SPDX-License-Identifier: Apache-2.0
"""What `ground.py` answers to careless options: one sentence, before anything is read, loaded or written."""

import pytest
import yaml
from paths import SCRIPTS
from refusals import assert_refused

from trainer import GroundingConfig


SCRIPT = SCRIPTS / "ground.py"
RUN = ["--vision_tower", "absent", "--dataset", "absent.json", "--output_dir", "out"]

OPTIONS = {
    "no words": (["--vocab_size", "0"], "`vocab_size` is 0: give a whole number of at least 1"),
    "half a word": (["--vocab_size", "1.5"], "`vocab_size` is '1.5': give a whole number of at least 1"),
    "no width": (
        ["--projector_hidden_size", "-8"],
        "`projector_hidden_size` is -8: give a whole number of at least 1",
    ),
    "raw coefficients": (
        ["--coefficient_activation", "linear"],
        "`coefficient_activation` is 'linear': give gated_softmax or softmax",
    ),
    "no passes": (["--num_train_epochs", "0"], r"`num_train_epochs` is 0(\.0)?: give a number above 0"),
    "no steps": (["--max_steps", "0"], "`max_steps` is 0: give a whole number of at least 1"),
    "a negative power": (["--frequency_power", "-1"], r"`frequency_power` is -1(\.0)?: give a number of at least 0"),
    "no power": (["--frequency_power", "nan"], "`frequency_power` is nan: give a number of at least 0"),
    "an endless power": (["--frequency_power", "inf"], "`frequency_power` is inf: give a number of at least 0"),
    "a negative rate": (["--learning_rate", "-1"], r"`learning_rate` is -1(\.0)?: give a number of at least 0"),
    "a rate in words": (["--learning_rate", "high"], "`learning_rate` is 'high': give a number of at least 0"),
    "an empty batch": (["--per_device_train_batch_size", "0"], "`per_device_train_batch_size` is 0: give a whole"),
    "a negative seed": (["--seed", "-1"], "`seed` is -1: give a whole number of at least 0"),
    "a schedule": (["--lr_scheduler_type", "cosin"], "`lr_scheduler_type` is 'cosin': give .*cosine"),
    "an option of train.py": (["--lora_r", "8"], r"There is no option lora_r"),
    "a slip": (["--vocab_sise", "8"], r"There is no option vocab_sise: do you mean vocab_size\?"),
    "a word too many": (["--seed", "1", "2"], "'2' belongs to no option"),
    "two recipes": (["--config", "a", "--config", "b"], "--config is given more than once"),
    "no patches left": (
        ["--patch_dropout", "1"],
        r"`patch_dropout` is 1(\.0)?: give a number of at least 0 and below 1",
    ),
    "a recipe that is not there": (["--config", "absent.yaml"], "The recipe absent.yaml cannot be read"),
}

READ = [
    ("vocab_size", True, "`vocab_size` is True: give a whole number"),
    ("projector_hidden_size", [8], r"`projector_hidden_size` is \[8\]: give a whole number"),
    ("coefficient_activation", None, "`coefficient_activation` is None: give gated_softmax or softmax"),
    ("vision_tower", 5, "`vision_tower` is 5: give text"),
    ("feature_cache", 5, "`feature_cache` is 5: give text"),
    ("frequency_power", None, "`frequency_power` is None: give a number of at least 0"),
]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_refused(tmp_path, name):
    options, sentence = OPTIONS[name]
    assert_refused(SCRIPT, [*RUN, *options], sentence, tmp_path)


@pytest.mark.parametrize(("name", "value", "sentence"), READ, ids=lambda value: str(value)[:20])
def test_a_value_of_another_type_is_refused_from_a_recipe(tmp_path, name, value, sentence):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({name: value}))
    command = [*RUN[2:], "--config", "mine.yaml", *(RUN[:2] if name != "vision_tower" else [])]
    assert_refused(SCRIPT, command, sentence, tmp_path)


def test_a_run_begins_where_nothing_is_lost(tmp_path):
    (tmp_path / "out" / "adapter").mkdir(parents=True)
    assert_refused(SCRIPT, RUN, "out is not empty: name another folder, or go on", tmp_path)


@pytest.mark.parametrize("value", [float("nan"), -1, "much"])
def test_python_is_refused_the_same_values(tmp_path, value):
    with pytest.raises(ValueError, match=r"`frequency_power` is .*: give a number of at least 0"):
        GroundingConfig(str(tmp_path), frequency_power=value)


@pytest.mark.parametrize("missing", ["--vision_tower", "--dataset"])
def test_what_is_needed_is_named(tmp_path, missing):
    place = RUN.index(missing)
    sentence = f"the following arguments are required: {missing}"
    assert_refused(SCRIPT, RUN[:place] + RUN[place + 2 :], sentence, tmp_path)

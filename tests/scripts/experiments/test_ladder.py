# SPDX-License-Identifier: Apache-2.0
"""The ladder's rungs are options of train.py, each on top of those below, and its table compares within rounds."""

import pytest
from paths import SCRIPTS

from trainer import LangBridgeSFTConfig
from trainer.data_arguments import DataArguments
from trainer.model_loading import ModelArguments
from trainer.recipes import RecipeParser


@pytest.fixture
def ladder(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from experiments.benchmarks import ladder

    return ladder


def test_every_rung_is_of_options_of_train_and_keeps_those_below(ladder):
    parser = RecipeParser((ModelArguments, DataArguments, LangBridgeSFTConfig))
    before = {}
    for options in ladder.climb().values():
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        model, _, config, given = parser.parse(words)
        assert given == set(options)
        assert before.keys() <= options.keys()
        before = options
    assert model.dtype == "bfloat16"
    assert (config.activation_checkpointing, config.train_sampling_strategy) == (False, "group_by_length")


def test_the_table_compares_with_the_first_rung_of_the_same_round(ladder):
    def run(tokens: float, low: int) -> dict:
        return {"tokens": tokens, "memory": 2**20, "multiply_adds": {"float32": 1, "bfloat16": low}}

    # The second round is half as fast for both.
    runs = {"first": [run(100, 0), run(50, 0)], "second": [run(200, 3), run(100, 3)]}
    table = ladder.tabulate(runs, "title")
    assert table.rows[0] == ["first", 75, "1.00", 1, "100.0%"]
    assert table.rows[1] == ["second", 150, "2.00", 1, "25.0%"]


def test_a_folder_without_the_data_is_refused(ladder, tmp_path):
    with pytest.raises(ValueError, match="Give --data"):
        ladder.find_data(None)
    with pytest.raises(ValueError, match="holds no folder tokenizers"):
        ladder.find_data(tmp_path)

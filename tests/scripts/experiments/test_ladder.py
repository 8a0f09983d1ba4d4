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
    for options in ladder.climb(bin_tokens=2048).values():
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        model, _, config, given = parser.parse(words)
        assert given == set(options)
        assert before.keys() <= options.keys()
        before = options
    assert model.dtype == "bfloat16"
    assert (config.activation_checkpointing, config.packing, config.max_length) == (False, True, 2048)
    assert config.per_device_train_batch_size == 1  # bin


def test_the_table_compares_with_the_first_rung_of_the_same_round(ladder):
    def run(tokens: float, low: int) -> dict:
        products = {"float32": 1, "bfloat16": low}
        return {"tokens": tokens, "memory": 2**20, "multiply_adds": products, "product_time": {}}

    # The second round is half as fast for both.
    runs = {"first": [run(100, 0), run(50, 0)], "second": [run(200, 3), run(100, 3)]}
    table = ladder.tabulate(runs, "title")
    assert table.rows[0] == ["first", 75, "50 to 100", "1.00", 1, "100.0%", "not on a CPU"]
    assert table.rows[1] == ["second", 150, "100 to 200", "2.00", 1, "25.0%", "not on a CPU"]


def test_on_a_gpu_the_table_has_the_time_of_products_in_float32(ladder):
    times = [{"float": 1, "c10::BFloat16": 99}, {"c10::BFloat16": 7}, {"float": 3, "c10::BFloat16": 97}]
    run = {"tokens": 1, "memory": 1, "multiply_adds": {"bfloat16": 1}}
    table = ladder.tabulate({"first": [{**run, "product_time": one} for one in times]}, "title")
    assert table.rows[0][-2:] == ["0.0%", "1.0%"]


def test_a_folder_without_the_data_is_refused(ladder, tmp_path):
    with pytest.raises(ValueError, match="Give --data"):
        ladder.find_data(None)
    with pytest.raises(ValueError, match="holds no folder tokenizers"):
        ladder.find_data(tmp_path)

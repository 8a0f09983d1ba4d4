# SPDX-License-Identifier: Apache-2.0
"""LangBridge in transformers' pipelines, driven by transformers' own common pipeline test.

That test loads a saved model and its processor by name and asks the task's pipeline for batches with a remainder. What
a single call must answer is written in files that the source distribution lacks, so here it is `PipelineChecks`.
"""

import json
import unittest
from importlib import import_module

import pytest
import torch
import transformers
from tiny_parts import make_image
from transformers import Pipeline, pipeline

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


pytest.importorskip("transformers_tests", reason="transformers' own tests are not here: `make test` fetches them")

NAME = "LangBridgeForConditionalGeneration"


TASK = "image-text-to-text"  # "any-to-any" asks for torchvision


class PipelineChecks:
    """The part of the common test that is particular to a task: its pipeline, examples for it, and single calls."""

    def get_test_pipeline(self, model, tokenizer, image_processor, processor, dtype) -> tuple[Pipeline, list[dict]]:
        model = model.to(getattr(torch, dtype))
        examples = [
            {"images": make_image("red"), "text": "<image>what is in the picture?"},
            {"images": make_image("blue", size=(90, 60)), "text": "a <image> and a dog"},
        ]
        return pipeline(TASK, model=model, processor=processor, max_new_tokens=5), examples

    def run_pipeline_test(self, pipe: Pipeline, examples: list[dict]) -> None:
        for example in examples:
            (answer,) = pipe(**example)
            assert answer["generated_text"].startswith(example["text"])


@pytest.fixture(scope="module")
def suite(vision, text, tmp_path_factory) -> unittest.TestCase:
    """The common test, with a tiny LangBridge where it looks for transformers' own tiny models."""
    folder = tmp_path_factory.mktemp("tiny_models")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    for part in (model, processor):
        part.save_pretrained(folder / "langbridge" / NAME)
    parts = {"tokenizer_classes": [], "processor_classes": ["CLIPImageProcessorPil"]}
    (folder / "reports").mkdir()
    (folder / "reports" / "tiny_model_summary.json").write_text(json.dumps({NAME: parts}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFORMERS_TINY_MODEL_PATH", str(folder))
        # It imports transformers again, from a source tree that is not there.
        patch.setattr(transformers.utils, "direct_transformers_import", lambda path: transformers)
        patch.setattr(transformers, "LangBridgeProcessor", LangBridgeProcessor, raising=False)
        common = import_module("transformers_tests.test_pipeline_mixin")
        patch.setitem(common.pipeline_test_mapping, TASK, {"test": f"{__name__}.{PipelineChecks.__name__}"})

        class Suite(common.PipelineTesterMixin, unittest.TestCase):
            pipeline_model_mapping = {TASK: LangBridgeForConditionalGeneration}

        yield Suite()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pipeline(suite, dtype):
    suite.run_task_tests(TASK, dtype)

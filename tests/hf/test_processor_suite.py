# SPDX-License-Identifier: Apache-2.0
"""LangBridge's processor under transformers' own common tests."""

import unittest
from unittest.mock import patch

import pytest
from tiny_parts import make_tokenizer
from transformers import CLIPImageProcessorPil, LlavaNextImageProcessorPil, ProcessorMixin

from modeling_langbridge import LangBridgeNextProcessor, LangBridgeProcessor
from modeling_langbridge.chat_templates import add_missing_tokens


pytest.importorskip("transformers_tests", reason="transformers' own tests are not here: `make test` fetches them")

from transformers_tests.test_processing_common import ProcessorTesterMixin  # noqa: E402


class LangBridgeProcessorSuite(ProcessorTesterMixin, unittest.TestCase):
    processor_class = LangBridgeProcessor

    @classmethod
    def setUpClass(cls):
        # A class that saves its own code notes so in the processor it saves, whose copy on disk then differs from it.
        cls.enterClassContext(patch.object(cls.processor_class, "_auto_class", None))
        super().setUpClass()

    @staticmethod
    def does_processor_return_mm_offsets(processor_class: type[ProcessorMixin], method_name: str) -> bool:
        # The suite compares with the parent class, from which this processor inherits the method: it would skip tests.
        return getattr(processor_class, method_name) is not getattr(ProcessorMixin, method_name)

    @classmethod
    def _setup_image_processor(cls) -> CLIPImageProcessorPil:
        return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    @classmethod
    def _setup_tokenizer(cls):
        tokenizer = make_tokenizer()
        add_missing_tokens(tokenizer)
        return tokenizer

    @classmethod
    def prepare_processor_dict(cls) -> dict:
        return {
            "patch_size": 8,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": cls._setup_tokenizer().chat_template,
        }


class LangBridgeNextProcessorSuite(LangBridgeProcessorSuite):
    processor_class = LangBridgeNextProcessor

    @classmethod
    def _setup_image_processor(cls) -> LlavaNextImageProcessorPil:
        side = {"height": 32, "width": 32}
        return LlavaNextImageProcessorPil(size=side, crop_size=side, image_grid_pinpoints=[[32, 64], [64, 32]])

# SPDX-License-Identifier: Apache-2.0
"""LangBridge's configuration and models under transformers' own common tests."""

import unittest

import pytest
import torch

from modeling_langbridge import (
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeModel,
    LangBridgeNextConfig,
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextModel,
)


pytest.importorskip("transformers_tests", reason="transformers' own tests are not here: `make test` fetches them")

from transformers_tests.generation.test_utils import GenerationTesterMixin  # noqa: E402
from transformers_tests.test_configuration_common import ConfigTester  # noqa: E402
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor  # noqa: E402


IMAGE_TOKEN = 1


class LangBridgeModelTester:
    """Makes the tiny configurations and inputs, under the names that the suite reads."""

    # The suite's attention tests take seven samples, and would make up the missing ones without regard to images.
    batch_size = 7
    image_size = 8
    patch_size = 4
    num_image_tokens = (image_size // patch_size) ** 2
    seq_length = num_image_tokens + 7
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True
    vision_config = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
    }
    text_config = {
        "model_type": "llama",
        "vocab_size": 99,
        "hidden_size": hidden_size,
        "intermediate_size": 37,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
        # At the usual 0.02 so little depends on the image that batches may mix theirs up within the tolerance.
        "initializer_range": 0.1,
    }
    adapter_type = "langbridge"
    coefficient_activation = "linear"
    config_class = LangBridgeConfig
    config_fields = {}

    def get_config(self) -> LangBridgeConfig:
        return self.config_class(
            vision_config=self.vision_config,
            text_config=self.text_config,
            projector_hidden_size=24,
            bridge_vocab_size=40,
            adapter_type=self.adapter_type,
            coefficient_activation=self.coefficient_activation,
            image_token_index=IMAGE_TOKEN,
            image_seq_length=self.num_image_tokens,
            **self.config_fields,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[LangBridgeConfig, dict[str, torch.Tensor]]:
        # Text begins at 3, past the image and the pad token.
        input_ids = ids_tensor((self.batch_size, self.seq_length), 99 - 3) + 3
        input_ids[:, 1 : 1 + self.num_image_tokens] = IMAGE_TOKEN
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            **self.make_images(),
        }
        return self.get_config(), inputs

    def make_images(self) -> dict[str, torch.Tensor]:
        return {"pixel_values": floats_tensor((self.batch_size, 3, self.image_size, self.image_size))}


class TiedGatedModelTester(LangBridgeModelTester):
    text_config = {**LangBridgeModelTester.text_config, "model_type": "qwen2", "tie_word_embeddings": True}
    coefficient_activation = "gated_softmax"


class MLPModelTester(LangBridgeModelTester):
    adapter_type = "mlp"


class LinearModelTester(LangBridgeModelTester):
    adapter_type = "linear"


class LangBridgeNextModelTester(LangBridgeModelTester):
    config_class = LangBridgeNextConfig
    config_fields = {"image_grid_pinpoints": [[16, 8], [8, 16]]}
    num_image_tokens = 4 + 4 * 3  # the overview, and four rows of two patches with a newline
    seq_length = num_image_tokens + 7

    def make_images(self) -> dict[str, torch.Tensor]:
        return {
            "pixel_values": floats_tensor((self.batch_size, 3, 3, self.image_size, self.image_size)),
            "image_sizes": torch.tensor([[16, 8]] * self.batch_size),
        }


class LangBridgeModelSuite(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    model_tester_class = LangBridgeModelTester
    all_model_classes = (LangBridgeModel, LangBridgeForConditionalGeneration)
    additional_model_inputs = ["pixel_values"]
    _is_composite = True
    # The tower is read one layer before its last, so the last has no gradient; the test at the end is exact about it.
    test_all_params_have_gradient = False

    def setUp(self):
        self.model_tester = self.model_tester_class()
        config_class = self.model_tester_class.config_class
        self.config_tester = ConfigTester(self, config_class=config_class, has_text_modality=False)

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_can_init_all_missing_weights(self):
        # In models that are not its own, transformers 5.23 leaves out what a module does to its children's weights, as
        # CLIP's attention does; a ViT does nothing of the kind, so there every weight can be compared.
        self.model_tester.vision_config = {**self.model_tester.vision_config, "model_type": "vit"}
        super().test_can_init_all_missing_weights()

    def test_the_suite_knows_which_class_has_a_loss(self):
        # Without the names in conftest.py no labels are prepared, and the tests of training pass without training.
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        prepared = [self._prepare_for_class(inputs, model, return_labels=True) for model in self.all_model_classes]
        self.assertEqual(["labels" in inputs for inputs in prepared], [False, True])

    def test_as_many_images_as_placeholders_are_asked_for(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        images = {name: inputs[name][1:] for name in self.additional_model_inputs}
        one_image_short = {**inputs, **images}
        for model_class in self.all_model_classes:
            with self.assertRaisesRegex(ValueError, "Image features and image tokens do not match"):
                model_class(config)(**one_image_short)

    def test_all_but_the_unread_end_of_the_tower_has_a_gradient(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = self.all_model_classes[1](config)
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        tower = "model.vision_tower."
        unread = (tower + "encoder.layers.1.", tower + "post_layernorm.")
        self.assertEqual(without, {name for name, _ in model.named_parameters() if name.startswith(unread)})


class LangBridgeNextModelSuite(LangBridgeModelSuite):
    model_tester_class = LangBridgeNextModelTester
    all_model_classes = (LangBridgeNextModel, LangBridgeNextForConditionalGeneration)
    additional_model_inputs = ["pixel_values", "image_sizes"]
    skip_test_image_features_output_shape = True  # the tower's output is that of tiles, not of images
    test_bc_torch_dtype = None  # of an argument of `from_pretrained`, which is the same for every model


@pytest.mark.slow
class TiedGatedModelSuite(LangBridgeModelSuite):
    model_tester_class = TiedGatedModelTester


@pytest.mark.slow
class MLPModelSuite(LangBridgeModelSuite):
    model_tester_class = MLPModelTester


@pytest.mark.slow
class LinearModelSuite(LangBridgeModelSuite):
    model_tester_class = LinearModelTester


def test_a_tied_output_layer_is_the_embedding():
    # The suite compares only what `_tied_weights_keys` names, so it would not miss an empty one.
    model = LangBridgeForConditionalGeneration(TiedGatedModelTester().get_config())
    assert model.lm_head.weight is model.get_input_embeddings().weight

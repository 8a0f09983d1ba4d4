# SPDX-License-Identifier: Apache-2.0
"""Makes transformers' own common tests importable as `transformers_tests`.

They come with transformers' source distribution, which `make test` unpacks into the virtual environment. It holds the
common test files but not what those import from the rest of transformers' test tree: that is stood in for here, as far
as these tests need it and no further.
"""

import base64
import io
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import transformers
from tiny_parts import make_image
from transformers.models.auto import modeling_auto, processing_auto


SUITE = Path(sys.prefix) / "transformers-sdist" / f"transformers-{transformers.__version__}" / "tests"


def stand_in(name: str, **contents) -> None:
    module = ModuleType(name)
    module.__path__ = []
    vars(module).update(contents)
    sys.modules[name] = module


def url_to_local_path(url: str) -> str:
    """What transformers' tests download is an image or a video: an image of ours, as text, in place of the first."""
    if not url.endswith(".png"):
        return url
    png = io.BytesIO()
    make_image().save(png, format="png")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


if SUITE.is_dir():
    stand_in("transformers_tests")
    sys.modules["transformers_tests"].__path__ = [str(SUITE)]
    stand_in("transformers_tests.exporters")
    stand_in("transformers_tests.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    stand_in("transformers_tests.generation")
    stand_in("transformers_tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    stand_in("transformers_tests.utils")
    # Only read for configs that have no sub-configs.
    stand_in("transformers_tests.utils.test_configuration_utils", config_common_kwargs={})
    stand_in("fetch_hub_objects_for_ci", url_to_local_path=url_to_local_path)
    with pytest.MonkeyPatch.context() as patch:
        # It imports transformers again, from a source tree that is not there.
        patch.setattr(transformers.utils, "direct_transformers_import", lambda path: transformers)
        import_module("transformers_tests.test_configuration_common")


def pytest_configure(config: pytest.Config) -> None:
    for mark in (
        "accelerate_tests",
        "flash_attn_test",
        "flash_attn_3_test",
        "flash_attn_4_test",
        "is_pipeline_test",
        "torch_compile_test",
    ):
        config.addinivalue_line("markers", f"{mark}: a mark of transformers' own tests")


@pytest.fixture(scope="module", autouse=True)
def named_like_a_model_of_transformers():
    """The suite asks these tables which tests concern a class: unnamed, most would pass without running anything."""
    with pytest.MonkeyPatch.context() as patch:
        image_text_to_text = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        for model_type, name in {"langbridge": "LangBridge", "langbridge_next": "LangBridgeNext"}.items():
            patch.setitem(modeling_auto.MODEL_MAPPING_NAMES, model_type, f"{name}Model")
            patch.setitem(image_text_to_text, model_type, f"{name}ForConditionalGeneration")
            patch.setitem(processing_auto.PROCESSOR_MAPPING_NAMES, model_type, f"{name}Processor")
        yield

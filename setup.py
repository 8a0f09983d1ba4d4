# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from setuptools import find_packages, setup


setup(
    name="langbridge",
    version="0.1.0.dev0",
    description="A vision-language adapter made of words, for transformers and TRL",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["modeling_langbridge*", "trainer*", "hub_cards*"]),
        "langbridge_scripts",
        *(f"langbridge_scripts.{package}" for package in find_packages("scripts")),
    ],
    package_dir={"langbridge_scripts": "scripts"},  # no package of others is called as generally as "scripts"
    entry_points={
        "console_scripts": ["langbridge = langbridge_scripts.langbridge:main"],
        "lmms_eval.models": ["langbridge = trainer.evaluation.lmms_eval_model:MANIFEST"],
    },
    package_data={
        "langbridge_scripts": ["*.sh", "*.yaml", "recipes/*.yaml", "accelerate/*.yaml"],
        "langbridge_scripts.experiments.photos_demo": ["templates/*"],
        "modeling_langbridge": ["py.typed"],
        "modeling_langbridge.adapter": ["grounded_efficientnet_lite0/*"],
        "modeling_langbridge.reading": ["templates/*"],
        "modeling_langbridge.vocabulary": ["*.json"],
        "trainer": ["py.typed"],
        "hub_cards": ["py.typed", "templates/*.jinja", "tested_versions.json"],
        "hub_cards.space": ["README.md", "requirements.txt"],
    },
    install_requires=["torch>=2.11", "transformers>=5.18", "safetensors", "filelock", "pillow"],
    extras_require={
        "train": [
            "transformers>=5.23",
            "trl>=1.16",
            "accelerate>=1.15",
            "datasets>=5.2",
            "jinja2",
            "peft>=0.21",
            "POT>=0.9.7",
            "psutil",
            "scipy",
            "tensorboard",
            "matplotlib",
            "pyyaml",
            "requests",
        ],
        "quantization": ["bitsandbytes>=0.50"],
        "flash-attn": ["flash-attn"],
        "serve": ["transformers[serving]>=5.23", "starlette>=1.10", "uvicorn>=0.54"],
        "space": ["gradio>=6.31", "mcp>=1.21,<2"],  # not gradio[mcp], which wants an older pydantic
        "video": ["av>=18"],
        "onnx": ["onnx>=1.23", "onnxscript>=0.7", "onnxruntime>=1.32"],
        "parts": ["gguf", "matplotlib"],
        "eval": ["pycocoevalcap>=1.2", "matplotlib", "rapidfuzz>=3.14"],
        "dev": [
            "markdown-it-py",
            "openai",
            "parameterized",
            "playwright",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "setuptools",
            "transformers-mlinter",
        ],
    },
)

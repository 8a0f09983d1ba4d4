# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
from pathlib import Path

from setuptools import setup


setup(
    name="langbridge",
    version="0.1.0.dev0",
    description="A vision-language adapter made of words, for transformers and TRL",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["modeling_langbridge", "trainer", "trainer.miniature", "hub_cards", "hub_cards.space"],
    package_data={
        "modeling_langbridge": ["py.typed", "vocabularies/*.json"],
        "trainer": ["py.typed"],
        "hub_cards": ["py.typed", "templates/*.jinja"],
        "hub_cards.space": ["README.md", "requirements.txt"],
    },
    install_requires=["torch>=2.11", "transformers>=5.23", "safetensors", "pillow"],
    extras_require={
        "train": [
            "trl>=1.16",
            "accelerate>=1.15",
            "datasets>=5.2",
            "jinja2",
            "peft>=0.21",
            "tensorboard",
            "matplotlib",
            "pyyaml",
        ],
        "quantization": ["bitsandbytes>=0.50"],
        "flash-attn": ["flash-attn"],
        "space": ["gradio>=6.31"],
        "eval": ["pycocoevalcap>=1.2", "matplotlib"],
        "dev": [
            "POT",
            "markdown-it-py",
            "parameterized",
            "playwright",
            "pytest",
            "pytest-timeout",
            "ruff",
            "setuptools",
            "transformers-mlinter",
        ],
    },
)

# SPDX-License-Identifier: Apache-2.0
"""Which part of the project may import which: who reads a layer needs to know none above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT


RECIPES = ["trainer.sft_trainer", "trainer.grounding", "trainer.distillation", "trainer.caption_distillation"]
ROUND_THE_TRAINING = ["trainer.evaluation", "trainer.objectives", "trainer.callbacks", "trainer.publishing"]
UNDER_THE_TRAINING = ["trainer.data", "trainer.checkpointing", "trainer.parts"]

# What may not import what; a package stands for all that is in it.
LAYERS = [
    (["modeling_langbridge"], ["hub_cards", "trainer", "scripts", "experiments", "serving"]),
    (["hub_cards"], ["trainer", "scripts", "experiments", "serving"]),
    (["trainer"], ["scripts", "experiments", "serving"]),
    (UNDER_THE_TRAINING, [*ROUND_THE_TRAINING, *RECIPES]),
    (ROUND_THE_TRAINING, RECIPES),
    (["trainer.data"], ["peft", "trl", "bitsandbytes"]),
]


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    module_name(file): file
    for package in ("modeling_langbridge", "trainer", "hub_cards", "scripts")
    for file in sorted((ROOT / package).rglob("*.py"))
    if not file.is_symlink()
}


# They travel with every checkpoint, without the rest of the project.
TRAVELLING = [
    module
    for module, file in FILES.items()
    if file.parent == ROOT / "modeling_langbridge" and file.name != "__init__.py"
]


def is_in(module: str, packages: list[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def imports(module: str) -> Iterator[str]:
    """The modules, or names in them, that a module imports anywhere in its file."""
    file = FILES[module]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("below", "above"), LAYERS, ids=lambda names: names[0])
def test_no_layer_imports_one_above_it(below, above):
    modules = [module for module in FILES if is_in(module, below)]
    found = [(module, name) for module in modules for name in imports(module) if is_in(name, above)]
    assert not found


def test_what_travels_with_a_checkpoint_imports_nothing_of_the_project_that_stays():
    assert "modeling_langbridge.modeling_langbridge" in TRAVELLING
    ours = {module.partition(".")[0] for module in FILES} | {"experiments", "serving"}
    found = [
        (module, name)
        for module in TRAVELLING
        for name in imports(module)
        if name.partition(".")[0] in ours and not is_in(name, TRAVELLING)
    ]
    assert not found


def test_what_travels_with_a_checkpoint_imports_public_names_only():
    """Others may go with any version of the library that has them, and the checkpoint with them."""
    found = [
        (module, name)
        for module in TRAVELLING
        for name in imports(module)
        if any(part.startswith("_") for part in name.split("."))
    ]
    assert not found


def test_every_layer_of_the_table_is_there():
    layers = {layer for sides in LAYERS for side in sides for layer in side if layer.startswith("trainer.")}
    assert not [layer for layer in layers if not any(is_in(module, [layer]) for module in FILES)]

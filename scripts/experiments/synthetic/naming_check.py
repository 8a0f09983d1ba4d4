# SPDX-License-Identifier: Apache-2.0
"""
Do the words of a patch name what is there? A grounded adapter on drawn scenes, whose objects' places are known.

    PYTHONPATH=.:scripts python -m experiments.synthetic.naming_check --output_dir naming_output

A tiny vision tower is trained on the scenes, then an adapter on the words of their captions, without a language model.
The scenes of the table are held out, as in the demo. An interrupted run goes on after the last finished stage.
"""

import argparse
from pathlib import Path

import torch
from transformers import set_seed

from experiments.stages import claim_output_dir, make_stage, run_stages
from experiments.synthetic.demo_stages import QUICK, Demo, Sizes, make_world, train_vision_tower
from experiments.synthetic.synthetic_world import SHAPES, Scene, Thing
from modeling_langbridge import LangBridgeAdapter, LangBridgeModel, SharedVocabulary
from trainer.command_line import run_script
from trainer.data.caption_words import content_words
from trainer.evaluation.intervals import estimate
from trainer.evaluation.naming import MEASURES, make_noise, mark_words, name_objects
from trainer.grounding import GroundingConfig, GroundingTrainer, compose_for_grounding


NAMES = {
    "colour or shape": lambda thing: (thing.colour, *SHAPES[thing.shape]),
    "shape": lambda thing: SHAPES[thing.shape],
    "colour": lambda thing: (thing.colour,),
}


def ground(demo: Demo, steps: int, folder: Path) -> None:
    """An adapter learns to predict the words of the scenes' captions."""
    set_seed(demo.seed)
    dataset = demo.dataset("train")
    words = {word for completion in dataset["completion"] for word in content_words(completion[0]["content"])}
    vocabulary = SharedVocabulary([f" {word}" for word in sorted(words)])
    langbridge, processor = compose_for_grounding(
        demo.folder("tower"), vocabulary, projector_hidden_size=128, coefficient_activation="gated_softmax"
    )
    arguments = GroundingConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=64,
        learning_rate=5e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        bf16=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        logging_steps=20,
        seed=demo.seed,
    )
    GroundingTrainer(langbridge, arguments, processor, vocabulary, dataset).train()
    LangBridgeAdapter.from_model(langbridge, processor.tokenizer).save_pretrained(folder / "adapter")


@torch.no_grad()
def count_scenes(
    bridge: LangBridgeModel,
    pixel_values: torch.Tensor,
    scenes: list[Scene],
    names: dict[Thing, torch.Tensor],
    seed: int,
) -> dict[str, torch.Tensor]:
    """For each row of the table and each scene, how many patches name their object, `(scenes, 4)`."""
    generator = torch.Generator().manual_seed(seed)
    features = bridge.get_vision_features(pixel_values).pooler_output  # (scenes, tokens, d_v)
    of_noise = make_noise(features, generator)
    counts: dict[str, list[torch.Tensor]] = {}
    for scene, *both in zip(scenes, features, of_noise, strict=True):
        coefficients, noise = (bridge.vocabulary_head(bridge.multi_modal_projector(one)) for one in both)
        coverage = torch.from_numpy(scene.coverage()).flatten(1)  # (2, tokens)
        own = torch.stack([names[thing] for thing in (scene.first, scene.second)])  # (2, V)
        for row, found in name_objects(coefficients, noise, coverage, own, generator).items():
            counts.setdefault(row, []).append(found)
    return {row: torch.stack(found) for row, found in counts.items()}


def naming_table(demo: Demo) -> str:
    """The tables, one for each kind of name."""
    adapter = LangBridgeAdapter.from_pretrained(Path(demo.folder("grounded")) / "adapter")
    model, processor = adapter.join(demo.folder("tower"))
    pictures = [images[0] for images in demo.dataset("held_out")["images"]]
    pixel_values = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    scenes = demo.held_out_scenes
    lines = []
    for kind, names_of in NAMES.items():
        names = {
            thing: mark_words(names_of(thing), adapter.vocabulary.surfaces)
            for scene in scenes
            for thing in (scene.first, scene.second)
        }
        lines += [f"| named by its {kind} | {' | '.join(MEASURES)} |", "|---|" + "---:|" * len(MEASURES)]
        for row, counts in count_scenes(model.model, pixel_values, scenes, names, demo.seed).items():
            numbers = [str(estimate(counts[:, column], counts[:, -1])) for column in range(len(MEASURES))]
            lines.append(f"| {row} | {' | '.join(numbers)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("naming_output"), help="default: naming_output")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that all works, not how well")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    demo = Demo(arguments.output_dir, QUICK if arguments.quick else Sizes(), arguments.seed)
    steps = 10 if arguments.quick else 300
    claim_output_dir(demo.output_dir, {**demo.settings, "demo": "naming", "grounding_steps": steps})
    stages = {
        "world": (make_world, demo),
        "tower": (train_vision_tower, demo),
        "grounded": (ground, demo, steps),
    }
    run_stages(demo.output_dir, [{name: make_stage(*stage)} for name, stage in stages.items()])
    print(naming_table(demo))


if __name__ == "__main__":
    run_script(main)

# SPDX-License-Identifier: Apache-2.0
import torch
from transformers import AutoImageProcessor, AutoModel

from experiments.synthetic.synthetic_world import make_scenes
from experiments.synthetic.tiny_tower import LABELS, scene_labels, train_tower


def test_labels_state_the_scene():
    scene = make_scenes(1, ("train",), seed=0)[0]
    true = {label for label, value in zip(LABELS, scene_labels(scene), strict=True) if value}
    assert true == {
        *(f"first {value}" for value in (scene.first.size, scene.first.colour, scene.first.shape)),
        *(f"second {value}" for value in (scene.second.size, scene.second.colour, scene.second.shape)),
        scene.relation,
    }


def test_the_tower_is_an_ordinary_folder_that_gives_a_token_per_patch(tmp_path):
    scenes = make_scenes(16, ("train",), seed=0)
    pictures = [scene.draw() for scene in scenes]
    train_tower(scenes, pictures, tmp_path / "tower", learning_rate=1e-2, max_steps=2, batch_size=8)
    tower = AutoModel.from_pretrained(tmp_path / "tower")
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "tower")(images=pictures, return_tensors="pt")
    assert pixels["pixel_values"].abs().max() <= 1
    with torch.no_grad():
        states = tower(**pixels).last_hidden_state
    assert states.shape == (16, 1 + 49, 64)
    assert not states[0].allclose(states[1], atol=1e-3)

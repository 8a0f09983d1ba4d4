# SPDX-License-Identifier: Apache-2.0
"""Naming: whether the words of the patches that an object covers name it."""

import pytest
import torch

from trainer.evaluation.naming import count_named, make_noise, mark_words, name_objects


SURFACES = [" red", " circle", " blue", " ring", " small", " the", " it"]
NAMES = torch.stack([mark_words(words, SURFACES) for words in (("red", "circle"), ("blue", "ring"))])  # (2, V)


def patch(**strengths: float) -> torch.Tensor:
    return torch.tensor([strengths.get(surface.strip(), 0.0) for surface in SURFACES])


RED = patch(red=0.5, small=0.4, blue=0.1)
LATE = patch(small=0.9, the=0.8, it=0.7, blue=-0.6, circle=0.5)  # a name of the first object comes fifth
EVEN = patch(small=0.9, the=0.5, it=0.4, red=0.2, ring=0.2)
BLUE = patch(ring=-0.5, red=0.2)  # raw: ranked by magnitude


@pytest.mark.parametrize(
    ("coefficients", "owner", "counts"),
    [
        ([RED], [0], [1, 1, 1, 1]),
        ([RED], [1], [0, 1, 0, 1]),
        ([RED], [-1], [0, 0, 0, 0]),
        ([LATE], [0], [0, 1, 0, 1]),
        ([EVEN], [0], [0, 1, 0.5, 1]),
        ([BLUE], [1], [1, 1, 1, 1]),
        ([RED, LATE, BLUE, RED], [0, 0, 1, -1], [2, 3, 2, 3]),
    ],
)
def test_patches_of_an_object_are_counted_by_their_words(coefficients, owner, counts):
    found = count_named(torch.stack(coefficients), torch.tensor(owner), NAMES)
    assert found.tolist() == counts


def test_a_patch_belongs_to_the_object_that_covers_enough_of_it_and_the_controls_to_nobody():
    coefficients = torch.stack([RED, BLUE, RED, RED])
    coverage = torch.tensor([[0.5, 0.1, 0.2, 0.0], [0.0, 0.6, 0.0, 0.0]])
    noise = torch.stack([BLUE] * 4)
    found = name_objects(coefficients, noise, coverage, NAMES, torch.Generator().manual_seed(0))
    assert found["patches of the object"].tolist() == [2, 2, 2, 2]
    assert found["patches outside"].tolist() == [1, 2, 1, 2]  # the last, compared with both objects
    assert found["random features of the same norm"].tolist() == [1, 2, 1, 2]
    lower = name_objects(coefficients, noise, coverage, NAMES, torch.Generator(), min_coverage=0.2)
    assert lower["patches of the object"][-1] == 3


def test_shuffled_patches_keep_the_places_and_change_the_words():
    coefficients = torch.stack([RED] * 4 + [BLUE] * 4)
    coverage = torch.tensor([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4])
    rows = [
        name_objects(coefficients, coefficients, coverage, NAMES, torch.Generator().manual_seed(seed))
        for seed in range(100)
    ]
    assert all(row["patches of the object"].tolist() == [8, 8, 8, 8] for row in rows)
    wins = torch.stack([row["shuffled patches"] for row in rows]).mean(0)
    assert wins[2].item() == pytest.approx(4, abs=0.5) and wins[3] == 8


def test_noise_has_the_norm_of_the_features_and_other_directions():
    features = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    noise = make_noise(features, torch.Generator().manual_seed(1))
    torch.testing.assert_close(noise.norm(dim=-1), features.norm(dim=-1))
    assert torch.cosine_similarity(noise, features, dim=-1).abs().max() < 0.6

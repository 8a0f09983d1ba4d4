# SPDX-License-Identifier: Apache-2.0
"""
Adapters that several language models train in turn, and what one that no adapter has met makes of them.

Coefficients c that train through the embeddings E_1 of one language model are seen by it as c E_1 alone: what lies in
the null space of E_1 is noise to all others. Through several, the embeddings of all stand side by side, and the null
space is smaller.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm
from transformers import set_seed

from experiments.flickr8k.few_shot import see_photos
from experiments.flickr8k.photo_adapters import compose_raw, load_adapter_onto, train_on_captions
from experiments.matrix.cells import Photos, measure_captions, photos_of, write
from experiments.matrix.forms import Parts
from experiments.matrix.world import MatrixWorld
from modeling_langbridge import LangBridgeAdapter
from modeling_langbridge.adapter.transfer_diagnosis import diagnose_transfer
from modeling_langbridge.adapter.word_space import null_space_share, word_map_r2
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.several.sharing import share_adapter
from trainer.several.trainer import SeveralLanguageModelsTrainer


SMOLLM2 = "smollm2"  # the quicker of the pretrained ones
FORMS = {
    "raw": "raw coefficients, from random weights",
    "scaled": "the same, visual tokens as long as a word",
    "softmax": "grounded softmax, a token per patch",
}


def counts_of(world: MatrixWorld) -> range:
    """How many language models take turns: the first of the matrix, the first two, and so on."""
    return range(1, len(world.sizes.language_models) + 1)


def targets_of(world: MatrixWorld) -> list[str]:
    """Who is given these adapters: one that took part in all of them, one in the last alone, and those in none."""
    small = world.sizes.language_models
    targets = [small[0], small[-1], world.sizes.newcomer, *({SMOLLM2} & world.pretrained.keys())]
    return list(dict.fromkeys(targets))


def train_raw_in_turn(world: MatrixWorld, count: int, seed: int, folder: Path) -> None:
    """Raw coefficients, trained from random weights on captions through several language models in turn."""
    set_seed(seed)
    parts = compose_raw(world, world.sizes.language_models[0])
    steps, rate = world.sizes.several_steps, world.sizes.several_learning_rate
    train_in_turn(world, parts, count, seed, steps, rate, folder)


def tune_softmax_in_turn(world: MatrixWorld, count: int, seed: int, folder: Path) -> None:
    """The grounded adapter, a token per patch, trained on captions through several language models in turn."""
    set_seed(seed)
    parts = load_adapter_onto(world, f"grounded_{seed}", world.sizes.language_models[0])
    steps, rate = world.sizes.several_tuning_steps, world.sizes.several_tuning_learning_rate
    train_in_turn(world, parts, count, seed, steps, rate, folder, muon=False)


def train_in_turn(
    world: MatrixWorld,
    parts: Parts,
    count: int,
    seed: int,
    max_steps: int,
    learning_rate: float,
    folder: Path,
    muon: bool = True,
) -> None:
    sizes, names = world.sizes, world.sizes.language_models[1:count]
    others = {name: share_adapter(*parts, world.language_model(name)) for name in names}
    train_on_captions(
        dataclasses.replace(world, sizes=dataclasses.replace(sizes, adapter_batch_size=sizes.several_batch_size)),
        *parts,
        folder,
        seed,
        max_steps,
        learning_rate,
        judged_on=None,
        trainer_class=partial(SeveralLanguageModelsTrainer, others=others),
        muon=muon,
    )
    model, processor = parts
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")


def adapters_of(world: MatrixWorld) -> list[tuple[str, int]]:
    """The form of each adapter and how many language models it was trained with; the grounded one with none."""
    return [("softmax", 0), *((form, count) for form in FORMS for count in counts_of(world))]


def measure_several(world: MatrixWorld, target: str, seed: int, folder: Path) -> None:
    """What a language model makes of the adapters of one, two and more, with nothing trained for it."""
    photos = photos_of(world, target)
    adapters = tqdm(adapters_of(world), desc="adapters")
    write(folder, [measure_adapter(world, target, form, count, seed, photos) for form, count in adapters])


def measure_adapter(world: MatrixWorld, target: str, form: str, count: int, seed: int, photos: Photos) -> dict:
    kind = "softmax" if form == "softmax" else "raw"
    stage = f"several_{kind}_{count}_{seed}" if count else f"grounded_{seed}"
    adapter = LangBridgeAdapter.from_pretrained(world.output_dir / stage / "adapter")
    # The newcomer's tokenizer came after the words.
    parts = adapter.join(world.tower, world.language_model(target), split_words="leave_out")
    seen = Photos(*(see_photos(*parts, some, world.features(*parts)) for some in photos))
    if form == "scaled":
        seen = Photos(*(make_as_long_as(words_of(parts), some) for some in seen))
    measured = measure_captions(world, target, parts, photos, seen)
    return {"form": form, "count": count, **measured, "diagnosis": diagnose(world, stage, count, parts, photos.dev)}


@torch.no_grad()
def diagnose(
    world: MatrixWorld, stage: str, count: int, new: Parts, photos: list[CaptionedPhoto]
) -> dict[str, float | None]:
    """What [`diagnose_transfer`] measures without an old model, and [`compare_words`] with all that took part."""
    cache = world.features(*new)
    features = [cache.read(photo.image).float() for photo in photos[: world.sizes.prognosis_photos]]
    diagnosis = diagnose_transfer(None, new[0], features)
    numbers = {name: getattr(diagnosis, name) for name in ("token_length", "few_words", "told_apart")}
    if not count:
        return {**numbers, "null_share": None, "map_r2": None}
    old_words = [words_of(load_adapter_onto(world, stage, name)) for name in world.sizes.language_models[:count]]
    coefficients = new[0].get_image_coefficients(torch.stack(features)).float()  # (photos, tokens, V)
    whole = new[0].model.vocabulary_head.is_whole()  # (V,)
    return {**numbers, **compare_words(coefficients, old_words, words_of(new), whole)}


def make_as_long_as(words: torch.Tensor, seen: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Visual tokens `(tokens, d)` in their direction, each as long as words `(V, d)` are on average."""
    length = words.norm(dim=-1).mean()
    return [length * F.normalize(tokens, dim=-1) for tokens in seen]


def words_of(parts: Parts) -> torch.Tensor:
    return parts[0].model.get_word_embeddings().float()  # (V, d)


def compare_words(
    coefficients: torch.Tensor, old_words: Sequence[torch.Tensor], new_words: torch.Tensor, whole: torch.Tensor
) -> dict[str, float]:
    """
    What [`diagnose_transfer`] says of one old model, of several, whose words stand side by side, `(V, sum of d)`.

    Args:
        coefficients (`torch.Tensor` of shape `(..., V)`): Of photos.
        old_words (`Sequence[torch.Tensor]`), new_words (`torch.Tensor`): Words as embeddings, `(V, d)` each.
        whole (`torch.Tensor` of shape `(V,)`): The words that the new model's tokenizer has as single tokens.

    Returns:
        `dict` with `null_share`, of the coefficients, and `map_r2`, from the old words to the new ones.
    """
    stacked = torch.cat(list(old_words), -1)  # (V, sum of d)
    return {
        "null_share": null_space_share(coefficients, stacked),
        "map_r2": word_map_r2(stacked[whole], new_words[whole]),
    }

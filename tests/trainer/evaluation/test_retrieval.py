# SPDX-License-Identifier: Apache-2.0
"""Retrieval: photos and captions find one another through words, ties do not flatter, and the script says it all."""

import itertools
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from in_process import run_script_here
from paths import SCRIPTS
from safetensors.torch import load_file, save_file
from tiny_parts import SENTENCES, make_image, save_vision_tower
from tiny_training import load_script
from torch.nn import functional as F

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
)
from trainer import load_training_data
from trainer.data.captioned_photos import read_captioned_photos
from trainer.evaluation.retrieval import likelihood_scores, recall_at, recall_both_ways
from trainer.evaluation.word_scores import (
    assign,
    mean_tokens,
    pool_photos,
    reading_words,
    score_captions,
    score_means,
)
from trainer.grounding import GroundingConfig, GroundingTrainer, compose_for_grounding


SCRIPT = SCRIPTS / "retrieve.py"
COLOURS = {"red": "a red ball", "blue": "a blue boat", "green": "on the grass", "yellow": "the yellow dog"}
VOCABULARY = SharedVocabulary([" a", " the", " on", " ball", " boat", " grass", " dog", "."])


@pytest.fixture
def captions(tmp_path) -> Path:
    rows = []
    (tmp_path / "images").mkdir()
    for colour, caption in COLOURS.items():
        make_image(colour).save(tmp_path / "images" / f"{colour}.png")
        rows.append({"image": f"{colour}.png", "split": "test", "captions": [caption, f"there, {caption}."]})
    rows.append({"image": "absent.png", "split": "train", "captions": ["nothing"]})
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def grounded(vision, text, tmp_path_factory) -> Path:
    """The folder of an adapter that knows the four pictures."""
    folder = tmp_path_factory.mktemp("grounded")
    for colour in COLOURS:
        make_image(colour).save(folder / f"{colour}.png")
    rows = [{"image": f"{colour}.png", "caption": caption} for colour, caption in COLOURS.items()]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    torch.manual_seed(0)
    langbridge, processor = compose_for_grounding(
        vision, VOCABULARY, projector_hidden_size=40, coefficient_activation="gated_softmax"
    )
    config = GroundingConfig(
        str(folder / "out"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        max_steps=40,
        learning_rate=0.02,
        per_device_train_batch_size=4,
    )
    trainer = GroundingTrainer(
        langbridge, config, processor, VOCABULARY, load_training_data(str(folder / "rows.jsonl"))
    )
    trainer.train()
    trainer.save_model()
    return folder / "out" / "adapter"


@pytest.fixture
def script(monkeypatch):
    """The script's main, in this process, with a command line."""
    module = load_script("retrieve")

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["retrieve.py", *map(str, arguments)])
        module.main()

    return run


def test_recall_counts_any_of_a_photos_captions():
    owner = torch.tensor([0, 0, 1, 1])
    # Photo 0 ranks captions 3, 1, 2, 0 and photo 1 ranks 0, 1, 3, 2; captions 0 … 3 rank photos 1, 1, 0, 0 first.
    scores = torch.tensor([[1.0, 3.0, 2.0, 4.0], [9.0, 8.0, 1.0, 2.0]])
    recall = recall_both_ways(scores, owner, ks=(1, 2, 3))
    assert recall["image to text"] == {"1": 0.0, "2": 0.5, "3": 1.0}
    assert recall["text to image"] == {"1": 0.0, "2": 1.0, "3": 1.0}
    # Chance knows nothing of the scores.
    assert recall["text to image, chance"] == pytest.approx({"1": 0.5, "2": 1.0, "3": 1.0})
    assert recall["image to text, chance"] == pytest.approx({"1": 1 / 2, "2": 5 / 6, "3": 1.0})


def test_scores_that_are_all_equal_give_chance():
    owner = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    recall = recall_both_ways(torch.full((4, 8), 0.7), owner, ks=(1, 3, 8))
    assert recall["text to image"] == pytest.approx({"1": 1 / 4, "3": 3 / 4, "8": 1.0})
    chance = {str(k): 1 - math.comb(6, k) / math.comb(8, k) for k in (1, 3, 8)}
    assert recall["image to text"] == pytest.approx(chance) == recall["image to text, chance"]
    assert recall["text to image, chance"] == pytest.approx(recall["text to image"])


def test_ties_count_as_often_as_a_random_order_puts_the_right_one_ahead():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(3, (6, 5), generator=generator).float()
    relevant = torch.rand(6, 5, generator=generator) < 0.4
    relevant[:, 2] = True
    for k in (1, 2, 4):
        hits = []
        for order in itertools.permutations(range(5)):
            order = torch.tensor(order)
            ranked = order[scores[:, order].argsort(dim=1, descending=True, stable=True)]  # (queries, candidates)
            hits.append(relevant.gather(1, ranked[:, :k]).any(1).double().mean())
        assert recall_at(scores, relevant, k) == pytest.approx(torch.stack(hits).mean().item())


def test_scores_that_are_no_numbers_are_refused():
    right = torch.eye(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="not finite"):
        recall_at(torch.tensor([[math.nan, 0.0], [0.0, 1.0]]), right, 1)
    with pytest.raises(ValueError, match="no relevant candidate"):
        recall_at(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool), 1)


def test_a_photo_prefers_its_own_words_to_a_short_caption_of_common_ones():
    # Words: a, man, dog, boat.
    pooled = torch.tensor([[0.6, 0.2, 0.15, 0.05], [0.6, 0.2, 0.05, 0.15]])
    scores = likelihood_scores(pooled, [[0], [0, 1], [0, 1, 2], [0, 1, 3]])
    assert pooled[0, [0]].log().sum() > pooled[0, [0, 1, 2]].log().sum()  # the plain likelihood would be misled
    assert scores.argmax(1).tolist() == [2, 3]
    assert scores[:, :2].abs().max() < 1e-6  # what all photos have speaks for none of them


def test_scores_follow_their_formula():
    pooled = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = [[0, 3], [], [6, 1, 2], [4]]
    scores = likelihood_scores(pooled, found)
    for i, j in itertools.product(range(5), range(4)):
        means = [pooled[:, k].mean().item() for k in found[j]]
        informations = [-math.log(mean) for mean in means]
        ratios = [math.log(pooled[i, k].item() / mean) for k, mean in zip(found[j], means, strict=True)]
        total = sum(u * ratio for u, ratio in zip(informations, ratios, strict=True))
        expected = total / math.sqrt(sum(informations)) if found[j] else 0.0
        assert scores[i, j].item() == pytest.approx(expected, abs=1e-5)


def test_words_without_any_likelihood_still_give_finite_scores():
    pooled = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert likelihood_scores(pooled, [[0], [1], [0, 2]]).isfinite().all()


def test_rows_of_one_image_are_one_photo(tmp_path):
    for colour in ("red", "blue"):
        make_image(colour).save(tmp_path / f"{colour}.png")
    rows = [("red", "a ball"), ("blue", "a boat"), ("red", "a red ball")]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"image": f"{colour}.png", "caption": caption} for colour, caption in rows]))
    photos = read_captioned_photos(str(path))
    assert [(photo.name, photo.captions) for photo in photos] == [
        ("red.png", ["a ball", "a red ball"]),
        ("blue.png", ["a boat"]),
    ]
    bytes_of = {colour: (tmp_path / f"{colour}.png").read_bytes() for colour, _ in rows}
    dataset = Dataset.from_list([{"image": {"bytes": bytes_of[c], "path": None}, "caption": text} for c, text in rows])
    dataset.save_to_disk(tmp_path / "dataset")
    photos = read_captioned_photos(str(tmp_path / "dataset"))
    assert [photo.captions for photo in photos] == [["a ball", "a red ball"], ["a boat"]]


def test_only_the_split_is_read_and_images_may_lie_in_a_folder_beside(captions):
    photos = read_captioned_photos(str(captions))
    assert [photo.name for photo in photos] == [f"{colour}.png" for colour in COLOURS]
    assert photos[0].captions == ["a red ball", "there, a red ball."]
    assert Path(photos[0].image) == captions.parent / "images" / "red.png"
    assert [photo.name for photo in read_captioned_photos(str(captions), split="train")] == ["absent.png"]


def test_flickr8k_is_read_as_it_lies(data):
    photos = read_captioned_photos(str(data / "flickr8k" / "captions.jsonl"))
    assert len(photos) == 1000 and {len(photo.captions) for photo in photos} == {5}
    assert all(Path(photo.image).is_file() for photo in photos)


def test_an_adapter_alone_reads_photos_as_the_whole_model_does(vision, text, grounded, captions):
    adapter = LangBridgeAdapter.from_pretrained(grounded)
    model, processor = adapter.join(vision)
    images = [photo.image for photo in read_captioned_photos(str(captions))]
    alone = pool_photos(model.model, processor.image_processor, images)
    whole = pool_photos(adapter.join(vision, text)[0].model, processor.image_processor, images)
    assert adapter.vocabulary == VOCABULARY
    assert torch.allclose(alone, whole, atol=1e-6)
    assert torch.allclose(alone.sum(1), torch.ones(4))


def test_an_adapter_needs_its_own_vision_tower(grounded, tmp_path):
    with pytest.raises(ValueError, match="does not fit the model.*vision_feature_s"):
        LangBridgeAdapter.from_pretrained(grounded).join(save_vision_tower("mobilenet_v2", tmp_path / "other"))


def test_a_damaged_adapter_is_named(vision, grounded, tmp_path):
    shutil.copytree(grounded, tmp_path / "adapter")
    weights = load_file(grounded / "adapter.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "gate" not in name}, tmp_path / "part.safetensors")
    for content, complaint in (
        (b"nothing", "adapter.safetensors is damaged"),
        (
            (tmp_path / "part.safetensors").read_bytes(),
            "its weights are not whole .*gate_weight. is missing",
        ),
    ):
        (tmp_path / "adapter" / "adapter.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            LangBridgeAdapter.from_pretrained(tmp_path / "adapter")


def test_a_captions_states_do_not_depend_on_the_others(model, processor):
    embeddings = model.get_input_embeddings()(torch.arange(100, 160))
    together = score_captions(model, processor.tokenizer, SENTENCES[:4], embeddings)
    for caption, scores in zip(SENTENCES[:4], together, strict=True):
        ids = processor.tokenizer(caption, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            mean = model.model.language_model(input_ids=ids).last_hidden_state[0].mean(0)
        assert torch.allclose(scores, F.cosine_similarity(mean[None], embeddings), atol=1e-5)


@pytest.mark.parametrize("adapter_type", ["langbridge", "mlp", "linear"])
def test_photos_are_scored_with_any_adapter(vision, text, processor, adapter_type):
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 30)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, adapter_type, projector_hidden_size=40
    )
    images = [make_image("red"), make_image("blue")]
    if adapter_type == "langbridge":
        words, embeddings = reading_words(model, processor.tokenizer)
        assert words == vocabulary
    else:
        embeddings = model.get_input_embeddings()(torch.tensor(vocabulary.token_ids(processor.tokenizer))).detach()
    means = mean_tokens(model, processor.image_processor, images)
    scores = score_means(means, embeddings)
    pixel_values = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        for tokens, mean, photo in zip(
            model.get_image_features(pixel_values).pooler_output, means, scores, strict=True
        ):
            assert torch.allclose(mean, tokens.mean(0), atol=1e-6)
            assert torch.allclose(photo, F.cosine_similarity(tokens.mean(0)[None], embeddings), atol=1e-5)


def test_an_assignment_is_as_sharp_as_vlaps():
    assignment = assign(torch.tensor([[0.20, 0.21, 0.23]]))
    assert assignment.sum().item() == pytest.approx(1)
    assert (assignment / assignment[:, :1]).tolist()[0] == pytest.approx([1, math.e, math.e**3], rel=1e-4)


def test_the_script_finds_everything_with_an_adapter_that_knows_the_photos(vision, grounded, captions, tmp_path):
    command = ["--adapter", grounded, "--vision_tower", vision, "--dataset", captions]
    result = run_script_here(SCRIPT, *command, "--output", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "4 photos, 8 captions" in result.stdout
    assert "| image to text | 1.000 | 1.000 | 1.000 |" in result.stdout
    assert "| text to image | 1.000 | 1.000 | 1.000 |" in result.stdout
    assert "| text to image, chance | 0.250 | 1.000 | 1.000 |" in result.stdout
    output = json.loads((tmp_path / "out.json").read_text())
    assert output["recall"]["image to text"]["1"] == 1.0
    red = output["examples"][0]
    assert red["photo"] == "red.png" and red["words"][0] == " ball" and red["photos_found"][0]["photo"] == "red.png"
    assert {found["caption"] for found in red["captions_found"][:2]} == {"a red ball", "there, a red ball."}
    assert [found["right"] for found in red["captions_found"]][:3] == [True, True, False]


def test_a_checkpoint_is_read_by_its_words_or_by_its_language_models_states(
    script, vision, text, processor, grounded, captions, tmp_path, capsys
):
    LangBridgeAdapter.from_pretrained(grounded).join(vision, text)[0].save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    command = ["--model", tmp_path / "model", "--dataset", captions]
    script(*command)
    assert "| image to text | 1.000 | 1.000 | 1.000 |" in capsys.readouterr().out
    script(*command, "--captions_as", "states", "--output", tmp_path / "out.json")
    examples = json.loads((tmp_path / "out.json").read_text())["examples"]
    scores = [found["score"] for example in examples for found in example["captions_found"]]
    assert all(0 <= score <= 1.0001 for score in scores)  # cosines of distributions, not log-likelihoods
    with pytest.raises(ValueError, match="leave out --vocabulary and --vocab_size"):
        script(*command, "--vocab_size", 3)


def test_a_checkpoint_without_words_of_its_own_is_read_in_a_vocabulary(
    script, vision, text, processor, captions, tmp_path, capsys
):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, None, processor, "linear", projector_hidden_size=40
    )
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    SharedVocabulary((*VOCABULARY.surfaces, " zebra")).save(tmp_path / "words.json")  # one that the tokenizer lacks
    script("--model", tmp_path / "model", "--dataset", captions, "--vocabulary", tmp_path / "words.json")
    assert "| text to image | " in capsys.readouterr().out
    with pytest.raises(ValueError, match="--captions_as states"):
        script("--model", tmp_path / "model", "--dataset", captions, "--captions_as", "words")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--vision_tower": None}, "--adapter and --vision_tower go together"),
        ({"--captions_as": "states"}, "has no language model"),
        ({"--split": "dev"}, "no sample in split 'dev', only in test, train"),
        ({"--split": "train"}, "the image .*absent.png does not exist"),
        ({"--image_folder": "nowhere"}, "nowhere/red.png does not exist"),
        ({"--dataset": "none.jsonl"}, "none.jsonl cannot be read"),
        ({"--output": "no/such/folder.json"}, "--output no/such/folder.json cannot be written"),
        ({"--output": str(SCRIPT)}, "retrieve.py exists"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(script, vision, grounded, captions, options, message):
    given = {"--adapter": grounded, "--vision_tower": vision, "--dataset": captions, **options}
    with pytest.raises((ValueError, OSError), match=message):
        script(*(part for pair in given.items() if pair[1] is not None for part in pair))


def test_rows_must_have_one_image(captions, tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps({"id": "x", "images": ["red.png", "blue.png"], "caption": "a ball"}))
    with pytest.raises(ValueError, match="Sample x in .*two.jsonl has 2 images"):
        read_captioned_photos(str(path))
    path.write_text('{"image": "red.png"}')
    with pytest.raises(ValueError, match="two.jsonl, line 1: it has neither"):
        read_captioned_photos(str(path))

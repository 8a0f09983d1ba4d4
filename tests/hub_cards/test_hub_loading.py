# SPDX-License-Identifier: Apache-2.0
"""What was published, loaded by name: at a revision, in fresh processes with empty caches, and again offline."""

import pytest
from transformers import pipeline


pytest_plugins = "hub_fixtures"

ANSWERS = """
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

picture, *places = sys.argv[1:]
content = [{"type": "image", "path": picture}, {"type": "text", "text": "what is it?"}]
for name, revision in (place.split("@") for place in places):
    where = {"revision": revision, "trust_remote_code": name != "user/llava"}
    processor = AutoProcessor.from_pretrained(name, **where)
    pipes = [pipeline("image-text-to-text", model=name, **where)]
    for auto_class in (AutoModelForImageTextToText, AutoModel):
        if name == "user/llava" and auto_class is AutoModel:
            continue  # of a stock LLaVA it is the base, which does not generate
        model = auto_class.from_pretrained(name, **where)
        pipes.append(pipeline("image-text-to-text", model=model, processor=processor))
    for pipe in pipes:
        answer = pipe(text=[{"role": "user", "content": content}], max_new_tokens=12, do_sample=False)
        print(name, ascii(answer[0]["generated_text"][-1]["content"]))
    assert name != "user/llava" or not any(module.startswith("transformers_modules.") for module in sys.modules)
assert "modeling_langbridge" not in sys.modules
"""

JOINS = """
from transformers import AutoConfig, AutoModel, pipeline
from modeling_langbridge import (LangBridgeAdapter, SharedVocabulary,)

adapter, vocabulary, vision, text = sys.argv[1:]
model, _ = LangBridgeAdapter.from_pretrained("user/adapter", revision=adapter).join(vision, text)
print(len(model.model.vocabulary_head.token_ids))
for revision in (vocabulary, "main"):
    print(SharedVocabulary.from_pretrained("user/vocabulary", revision=revision).surfaces[0])
for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained, pipeline):
    try:
        load("user/adapter", revision=adapter) if load is not pipeline else pipeline(model="user/adapter")
    except ValueError as error:
        print(error)
"""


def answer_here(folder, picture) -> str:
    """What the folder that was published answers, in this process."""
    content = [{"type": "image", "path": str(picture)}, {"type": "text", "text": "what is it?"}]
    pipe = pipeline("image-text-to-text", model=str(folder))
    answer = pipe(text=[{"role": "user", "content": content}], max_new_tokens=12, do_sample=False)
    return ascii(answer[0]["generated_text"][-1]["content"])


@pytest.mark.parametrize("offline", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["online", "offline"])
def test_published_models_answer_as_their_folders_do(client, published, folders, offline):
    """With their code, as a stock LLaVA without any, and as transformers' own `push_to_hub` leaves a model."""
    picture = folders / "picture.png"
    model, llava = (answer_here(folders / kind, picture) for kind in ("model", "llava"))
    expected = [f"user/llava {llava}"] * 2 + [f"user/model {model}"] * 3 + [f"user/inherited {model}"] * 3
    places = [f"user/llava@{published['llava']}", f"user/model@{published['model']}", "user/inherited@main"]
    assert client.load(ANSWERS, picture, *places).splitlines() == expected
    if offline:  # from the cache that the first has filled
        assert client.load(ANSWERS, picture, *places, offline=True).splitlines() == expected


@pytest.mark.slow
def test_adapters_and_vocabularies_are_taken_up_by_name_also_offline(client, hub, published, vision, text):
    vocabularies = hub.repositories["user/vocabulary"]
    vocabularies.commit({**vocabularies.files, "vocabulary.json": b'[" cat"]'})
    arguments = [published["adapter"], published["vocabulary"], vision, text]
    for offline in (False, True):
        printed = client.load(JOINS, *arguments, with_project=True, offline=offline)
        num_words, pinned, newest, *sentences = printed.splitlines()
        assert (num_words, pinned, newest) == ("5", " dog", " cat")
        assert len(sentences) == 3 and all("LangBridgeAdapter" in sentence for sentence in sentences)

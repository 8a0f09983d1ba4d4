# SPDX-License-Identifier: Apache-2.0
"""Yes-or-no questions from captions: about objects, balanced, and answered by the captions."""

from experiments.flickr8k.yes_no_questions import find_objects, make_questions
from trainer.data.captioned_photos import CaptionedPhoto


PHOTOS = [
    CaptionedPhoto("1", None, ["A black dog runs in the snow.", "A dog in snow", "The dog is black."]),
    CaptionedPhoto("2", None, ["An otter on a rock", "The otter with a fish", "A black otter swimming"]),
    CaptionedPhoto("3", None, ["Two men", "People walk", "Nothing else"]),
]


def test_objects_are_the_words_that_end_a_noun_phrase():
    objects = find_objects(PHOTOS, least=1)
    assert set(objects) == {"dog", "snow", "otter", "rock", "fish"}
    assert objects["dog"] == 1 and not find_objects(PHOTOS, least=2)


def test_each_photo_is_asked_about_an_object_that_several_captions_name_and_one_that_none_does():
    questions = make_questions(PHOTOS, find_objects(PHOTOS, least=1), seed=0)
    assert [(question.photo, question.is_yes) for question in questions] == [
        (0, True),
        (0, False),
        (1, True),
        (1, False),
    ]
    # "fish" and "rock" are in one caption each: neither there for certain nor absent.
    assert questions[2].text == "Is there an otter in the photo?"
    assert questions[3].text in ("Is there a dog in the photo?", "Is there a snow in the photo?")
    assert questions[0].text in ("Is there a dog in the photo?", "Is there a snow in the photo?")


def test_the_same_seed_asks_the_same():
    objects = find_objects(PHOTOS, least=1)
    assert make_questions(PHOTOS, objects, seed=1) == make_questions(PHOTOS, objects, seed=1)

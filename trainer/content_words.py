# SPDX-License-Identifier: Apache-2.0
"""The words of a caption that say what is to be seen, in English."""

# Words that say nothing about what a picture shows.
STOP_WORDS = frozenset(
    "a an the and or of in on at to for from with by near into over up down out off through as is are be being been "
    "was were has have his her its their it he she they them that this there who which while some".split()
)


def content_words(caption: str) -> list[str]:
    """The words of a caption that say what is to be seen: lower case, each once, in the caption's order."""
    words = "".join(letter if letter.isalnum() else " " for letter in caption.lower()).split()
    return [word for word in dict.fromkeys(words) if word not in STOP_WORDS]

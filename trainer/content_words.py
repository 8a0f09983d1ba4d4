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

# SPDX-License-Identifier: Apache-2.0
"""LangBridge on the Hugging Face Hub: model cards, publishing, and a Space."""

from .cards import make_card
from .facts import CardFacts, Result
from .pushing import push_folder


__all__ = ["CardFacts", "Result", "make_card", "push_folder"]

# SPDX-License-Identifier: Apache-2.0
"""Ears: the adapter of words over a speech encoder, and what language models that nothing was trained for hear."""

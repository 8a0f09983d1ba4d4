# SPDX-License-Identifier: Apache-2.0
"""The adapter on its own: saved, loaded, joined with other language models."""

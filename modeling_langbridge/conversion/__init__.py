# SPDX-License-Identifier: Apache-2.0
"""Conversion from and to stock LLaVA, and from checkpoints of the published LangBridge code."""

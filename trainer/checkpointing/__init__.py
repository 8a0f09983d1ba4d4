# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: which are whole, sharded ones, LoRA merged."""

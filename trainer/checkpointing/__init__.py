# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: finding complete ones, sharded ones, and merging a LoRA."""

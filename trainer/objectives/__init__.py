# SPDX-License-Identifier: Apache-2.0
"""Objectives beside the caption loss."""

# SPDX-License-Identifier: Apache-2.0
"""Reads the words of an image's patches, explains them, and draws them."""

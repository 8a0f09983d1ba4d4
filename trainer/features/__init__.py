# SPDX-License-Identifier: Apache-2.0
"""The features of a frozen vision tower, computed before training and read in every pass."""

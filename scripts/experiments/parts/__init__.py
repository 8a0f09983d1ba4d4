# SPDX-License-Identifier: Apache-2.0
"""Real pretrained parts out of Python packages: which, how their wheels are fetched, and how they are converted."""

# SPDX-License-Identifier: Apache-2.0
"""The questions that scripts/benchmark.py answers, one a file, and how they are measured."""

# SPDX-License-Identifier: Apache-2.0
"""The experiments of demo.py and reproduce.py. Not installed."""

# SPDX-License-Identifier: Apache-2.0
"""Helpers for files, the Hub and error messages."""

# SPDX-License-Identifier: Apache-2.0
"""Callbacks: previews and throughput."""

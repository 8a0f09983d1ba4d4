# SPDX-License-Identifier: Apache-2.0
"""Public data onto the disk: what is fetched from where, resumable transfers, checks, and safe unpacking."""

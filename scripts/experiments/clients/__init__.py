# SPDX-License-Identifier: Apache-2.0
"""Training programs that nobody here wrote, tried on a tiny checkpoint; and what two of them must be told."""

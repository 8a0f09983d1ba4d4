# SPDX-License-Identifier: Apache-2.0
"""Several image-text samples in one sequence, each on its own."""

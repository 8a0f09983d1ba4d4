# SPDX-License-Identifier: Apache-2.0
"""What a trained adapter is worth: captions, retrieval, arithmetic, word scores."""

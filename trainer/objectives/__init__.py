# SPDX-License-Identifier: Apache-2.0
"""What is learnt beside the caption loss."""

# SPDX-License-Identifier: Apache-2.0
"""What the adapter says of an image, in words and pictures."""

# SPDX-License-Identifier: Apache-2.0
"""The demo on real photos: an adapter of words between pretrained parts."""

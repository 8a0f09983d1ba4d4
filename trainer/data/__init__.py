# SPDX-License-Identifier: Apache-2.0
"""Data in: samples of any common form read, checked, encoded and collated."""

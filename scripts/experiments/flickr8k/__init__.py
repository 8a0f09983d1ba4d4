# SPDX-License-Identifier: Apache-2.0
"""Real photos: Flickr8k."""

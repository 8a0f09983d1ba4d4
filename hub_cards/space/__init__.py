# SPDX-License-Identifier: Apache-2.0
"""A Space that shows a LangBridge at work. On the Hub this folder stands alone."""

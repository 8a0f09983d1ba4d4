# SPDX-License-Identifier: Apache-2.0
"""To and from the checkpoints of others: stock LLaVA, and the published LangBridge code."""

# SPDX-License-Identifier: Apache-2.0
"""A Gradio Space that demonstrates a LangBridge. It is uploaded alone, so it imports nothing of this project."""

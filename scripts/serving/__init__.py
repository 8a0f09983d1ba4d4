# SPDX-License-Identifier: Apache-2.0
"""The parts of `serve_eyes.py`, a server that gives a text-only language model eyes, and of `serve.py`."""

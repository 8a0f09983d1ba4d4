# SPDX-License-Identifier: Apache-2.0
"""One adapter trained with several language models."""

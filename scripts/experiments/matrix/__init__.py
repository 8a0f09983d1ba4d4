# SPDX-License-Identifier: Apache-2.0
"""One adapter, many language models: what is kept where nothing is trained for the new one."""

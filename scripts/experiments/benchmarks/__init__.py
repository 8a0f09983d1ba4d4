# SPDX-License-Identifier: Apache-2.0
"""Questions of speed and memory, each answered by a table."""

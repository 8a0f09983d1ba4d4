# SPDX-License-Identifier: Apache-2.0
"""Other libraries' errors, to be part of a sentence of our own."""


def first_line(error: Exception) -> str:
    """The first line of what an error says, without the full stop."""
    return str(error).strip().splitlines()[0].rstrip(" .:")

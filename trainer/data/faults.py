# SPDX-License-Identifier: Apache-2.0
"""The one error for a sample that cannot be trained on."""

from typing import Any


class SampleError(ValueError):
    """A sample that cannot be trained on. `fault` names the kind of fault, the message gives the reason."""

    def __init__(self, fault: str, message: str):
        super().__init__(message)
        self.fault = fault

    def __reduce__(self):  # for errors in other processes, which travel pickled
        return type(self), (self.fault, str(self))


def malformed(what: str, value: Any, expected: str) -> SampleError:
    return SampleError("malformed", f"{what} is {value!r:.60}, expected {expected}")

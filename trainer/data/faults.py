# SPDX-License-Identifier: Apache-2.0
"""The one error for a sample that cannot be trained on."""

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Gives the sentence of a [`SampleError`] in a data loader's worker, of which torch gives the whole traceback."""
    try:
        yield
    except RuntimeError as error:
        _, found, message = str(error).rpartition("SampleError: ")
        raise ValueError(message.strip()) if found else error from None

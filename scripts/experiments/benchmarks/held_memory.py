# SPDX-License-Identifier: Apache-2.0
"""The memory that this process holds, now and at most: on a GPU that of tensors, elsewhere all but pages of files.

Those would count libraries, and files with weights, whose read pages stay as long as one weight lies there.
"""

from pathlib import Path

import torch
from torch import nn


def held() -> int:
    """The bytes that this process holds, but for pages of files; on a GPU, those of tensors there."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else read_status("RssAnon")


def forget_peak() -> None:
    """The peak is counted from here on."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """The most bytes that were held since, of the same kind; pages of files hardly change while a model trains."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return read_status("VmHWM") - read_status("RssFile")


def read_status(field: str) -> int:
    """A field of what the system says of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def take_out_of_files(model: nn.Module) -> None:
    """Copies weights that lie in a mapped file, whose pages are not counted: some hold no weight any more."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()

# SPDX-License-Identifier: Apache-2.0
"""How large a tensor a computation ever makes, to show what it does not store."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Notes in `numel` how many numbers the largest tensor has that is made inside, backward pass included."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.numel = max(self.numel, output.numel())
        return output

# SPDX-License-Identifier: Apache-2.0
"""Runs a script in a process that may shard on the CPU: accelerate offers FSDP on accelerators only.

    torchrun … tests/sharded_on_cpu.py scripts/train.py … + … + …

Every `+` runs the script again, with the arguments behind it.

Everything after the choice of how to distribute is accelerate's and PyTorch's own code, over gloo.
"""

import atexit
import gc
import os
import runpy
import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule


def shard_on_cpu() -> None:
    plain_init = AcceleratorState.__init__

    def init(self, *args, fsdp_plugin: FullyShardedDataParallelPlugin | None = None, **kwargs) -> None:
        plain_init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            # Later instances take the choice over from here.
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def say_what_was_sharded() -> None:
    kinds = {type(module).__name__ for module in gc.get_objects() if isinstance(module, FSDPModule)}
    sys.stderr.write(" ".join(["sharded:", *sorted(kinds)]))


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpu()
        atexit.register(say_what_was_sharded)
    os.environ["FORK_LAUNCHED"] = "1"  # keeps accelerate from closing the process group, which all runs need
    script, *words = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(script))
    while words:
        end = words.index("+") if "+" in words else len(words)
        sys.argv, words = [script, *words[:end]], words[end + 1 :]
        runpy.run_path(script, run_name="__main__")

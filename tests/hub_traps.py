# SPDX-License-Identifier: Apache-2.0
"""Code and pickles that tell on whoever runs or unpickles them."""

import pickle
from pathlib import Path


class Trap:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "sprung")


def make_traps(sprung: Path) -> dict[str, bytes]:
    """Files that write `sprung` when they are run or unpickled."""
    code = f"from pathlib import Path\nPath({str(sprung)!r}).write_text('sprung')\n".encode()
    return {
        **dict.fromkeys(("extra.py", "__init__.py", "conftest.py", "sitecustomize.py", "torch.py"), code),
        **dict.fromkeys(
            ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"), pickle.dumps(Trap(sprung))
        ),
    }

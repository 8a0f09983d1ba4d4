# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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

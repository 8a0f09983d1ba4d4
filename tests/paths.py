# SPDX-License-Identifier: Apache-2.0
"""Where things are."""

import os
from pathlib import Path


ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
# Real photos, captions and tokenizers, which are not part of the project.
DATA = Path(os.environ.get("LANGBRIDGE_DATA", ROOT.parent / "shared" / "data"))

# SPDX-License-Identifier: Apache-2.0
"""Fresh processes for which a small Hub on this machine is the Hub."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from elsewhere import HIDE_THE_PROJECT
from hub_server import HubServer
from paths import ROOT, SCRIPTS


SCRIPT = SCRIPTS / "push_to_hub.py"
TOKEN = "hf_" + "a" * 34
OTHER_TOKEN = "hf_" + "b" * 34
VISION_TOWER, LANGUAGE_MODEL = "openai/clip-vit-base-patch32", "Qwen/Qwen2-0.5B"
CARD = ["--license", "mit", "--language", "en"]


@dataclass
class Client:
    """A fresh process with a cache of its own, for which `hub` is the Hub."""

    hub: HubServer
    home: Path

    def run(self, *command: str | Path, token: str | None = None, offline: bool = False):
        self.home.mkdir(exist_ok=True)
        environment = {
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_XET": "1",  # Xet is a protocol of its own, which the small Hub does not speak
            "PATH": "",
            "PYTHONPATH": str(ROOT),  # this checkout, where `load` does not hide it
            **{name: value for name, value in os.environ.items() if name.startswith("OMP_")},
            **({"HF_TOKEN": token} if token else {}),
            **({"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"} if offline else {}),
        }
        return subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
        )

    def push(self, folder: Path, repo_id: str, *options: str | Path, token: str | None = TOKEN):
        """Runs scripts/push_to_hub.py."""
        return self.run(SCRIPT, "--folder", folder, "--repo_id", repo_id, *options, token=token)

    def load(self, code: str, *arguments: str | Path, with_project: bool = False, **options) -> str:
        """Runs code, with `sys` imported and, unless `with_project`, without this project; gives what it prints."""
        result = self.run("-c", ("import sys\n" if with_project else HIDE_THE_PROJECT) + code, *arguments, **options)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

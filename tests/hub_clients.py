# SPDX-License-Identifier: Apache-2.0
"""Processes for which a small Hub on this machine is the Hub."""

import json
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

# Imports once what the commands need, which takes most of the time of each, and forks for every command.
PUBLISHER = """
import gc, json, os, runpy, sys
gc.set_threshold(10_000)
import hub_cards.pushing, trainer.grounding, trainer.sft_trainer

gc.freeze()
for line in sys.stdin:
    command = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

os.environ.update(command["environment"])
for number, name in enumerate((os.devnull, "stdout", "stderr")):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
first, *arguments = command["arguments"]
if first == "-c":
    code, *arguments = arguments
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"))
else:
    sys.argv = [first, *arguments]
    runpy.run_path(first, run_name="__main__")
"""


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    return {
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",  # Xet is a protocol of its own, which the small Hub does not speak
        "PATH": "",
        "PYTHONPATH": str(ROOT),  # this checkout, where `Client.load` does not hide it
        **{name: value for name, value in os.environ.items() if name.startswith("OMP_")},
    }


@dataclass
class Client:
    """A fresh process with a cache of its own."""

    hub: HubServer
    home: Path

    def load(self, code: str, *arguments: str | Path, with_project: bool = False, offline: bool = False) -> str:
        """Runs code, with `sys` imported and, unless `with_project`, without this project; gives what it prints."""
        self.home.mkdir(exist_ok=True)
        settings = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"} if offline else {}
        code = ("import sys\n" if with_project else HIDE_THE_PROJECT) + code
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self.home,
            env=environment(self.hub, self.home) | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout


class Publisher:
    """Somebody with this project and a token, who runs commands one after the other, each in a process of its own."""

    def __init__(self, hub: HubServer, home: Path):
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER],
            cwd=home,
            env=environment(hub, home) | {"OMP_NUM_THREADS": "1"},  # a process with more cannot be forked
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str | Path, token: str = TOKEN) -> subprocess.CompletedProcess:
        """What `python command` leaves."""
        command = list(map(str, command))
        self.process.stdin.write(json.dumps({"arguments": command, "environment": {"HF_TOKEN": token}}) + "\n")
        self.process.stdin.flush()
        status = self.process.stdout.readline()
        assert status, "the publisher's process has ended"
        output, errors = ((self.home / name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(command, int(status), output, errors)

    def push(self, folder: Path, repo_id: str, *options: str | Path) -> subprocess.CompletedProcess:
        """Runs scripts/push_to_hub.py."""
        return self.run(SCRIPT, "--folder", folder, "--repo_id", repo_id, *options)

    def printed(self, code: str, *arguments: str | Path, token: str = TOKEN) -> str:
        """What code prints."""
        result = self.run("-c", code, *arguments, token=token)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

# SPDX-License-Identifier: Apache-2.0
"""With which versions of transformers a checkpoint's code was tried: what scripts/check_versions.py found.

`tested_versions.json` records it for the code that was tried, by its hash: of other code nothing is claimed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from modeling_langbridge.utils.files import atomic_file, read_json

from .repository import CODE, NEXT_CODE


RECORD = Path(__file__).with_name("tested_versions.json")


@dataclass(kw_only=True)
class VersionResult:
    """
    What works with one version of transformers; each step after the first needs the one before it.

    Args:
        transformers (`str`): The version.
        loads, logits, generates, trains (`bool`):
            Whether a checkpoint loads by its own code, gives the logits, the tokens and the training losses that it
            gives with the version that it was saved with.
        package (`bool`): Whether this package joins, saves and loads models when it is installed with that version.
        reason (`str`): Why it fails, in one line.
    """

    transformers: str
    loads: bool = False
    logits: bool = False
    generates: bool = False
    trains: bool = False
    package: bool = False
    reason: str = ""

    @property
    def works(self) -> bool:
        return self.loads and self.logits and self.generates and self.trains


@dataclass(kw_only=True)
class VersionTable:
    """
    Args:
        code (`str`): `hash_code` of the code that was tried.
        saved_with (`str`): The version of transformers that the checkpoint was saved with.
        torch, date, machine (`str`): With which torch, when and where.
        versions (`list[VersionResult]`): Each version, from the oldest to the newest.
    """

    code: str
    saved_with: str
    torch: str
    date: str
    machine: str
    versions: list[VersionResult]

    def describe(self) -> str:
        """`5.6.2 to 5.24.0`, and which between them do not work; empty where none works."""
        working = [index for index, version in enumerate(self.versions) if version.works]
        if not working:
            return ""
        between = self.versions[working[0] : working[-1] + 1]
        ends = dict.fromkeys([between[0].transformers, between[-1].transformers])
        failing = [version.transformers for version in between if not version.works]
        return " to ".join(ends) + (f", but not {', '.join(failing)}" if failing else "")

    def to_markdown(self) -> str:
        """The versions as a Markdown table."""
        lines = [
            "| transformers | loads | logits equal | same tokens | trains | package | reason |",
            "|---|---|---|---|---|---|---|",
        ]
        for version in self.versions:
            steps = (version.loads, version.logits, version.generates, version.trains, version.package)
            marks = " | ".join("yes" if step else "no" for step in steps)
            reason = version.reason.replace("|", "\\|")
            lines.append(f"| {version.transformers} | {marks} | {reason} |")
        return "\n".join(lines) + "\n"

    def save(self) -> None:
        """Writes the record, in the place of an earlier one."""
        with atomic_file(RECORD) as unfinished:
            unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls) -> "VersionTable":
        """Reads the record."""
        fields = read_json(RECORD)
        return cls(**{**fields, "versions": [VersionResult(**version) for version in fields["versions"]]})


def hash_code(folder: Path) -> str:
    """The SHA-256 of the code files that travel with every LangBridge, as they are in a folder."""
    found = hashlib.sha256()
    for name in CODE:
        path = folder / name
        found.update(name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b"") + b"\0")
    return found.hexdigest()


def find_tested_versions(folder: Path) -> VersionTable | None:
    """The versions that a folder's code was tried with; `None` where it is other code than what was tried.

    LangBridge-NeXT's is: a LangBridge is what is tried.
    """
    tested = VersionTable.load()
    is_next = any((folder / name).is_file() for name in NEXT_CODE)
    return tested if tested.code == hash_code(folder) and not is_next else None

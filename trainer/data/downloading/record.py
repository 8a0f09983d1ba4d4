# SPDX-License-Identifier: Apache-2.0
"""`downloads.json`: what was fetched and its checksum, so that later runs notice another content."""

import json
from pathlib import Path
from typing import Any

from modeling_langbridge.utils.files import atomic_file, read_json


class DownloadRecord:
    """
    The record of a folder of data. It is on the disk after every change.

    `files` has an entry for every file that arrived: `url`, `size`, `sha256`, `date`. `parts` has one for every
    transfer that was begun: `url`, `size`, the server's `version` of the file, and the `sha256` that it promises.

    Args:
        path (`Path`): The file; read where it exists.

    Raises:
        `ValueError`: it is no record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = read_json(path) if path.exists() else {"files": {}, "parts": {}}
        kinds = ("files", "parts")
        if not isinstance(content, dict) or not all(isinstance(content.get(kind), dict) for kind in kinds):
            raise ValueError(f"{path} is no record of downloads: remove it or name another --output_dir.")
        self.files: dict[str, dict[str, Any]] = content["files"]
        self.parts: dict[str, dict[str, Any]] = content["parts"]

    def promised(self, file: str) -> str | None:
        """The SHA-256 that a server, which need not be the last one, has promised for a file under way."""
        return self.parts.get(file, {}).get("sha256")

    def begin(self, file: str, **facts: Any) -> None:
        """Notes what a server says of a file whose transfer begins."""
        self.parts[file] = facts
        self.write()

    def finish(self, file: str, **facts: Any) -> None:
        """Notes that a file has arrived, and forgets its transfer."""
        self.files[file] = facts
        self.parts.pop(file, None)
        self.write()

    def write(self) -> None:
        with atomic_file(self.path) as unfinished:
            unfinished.write_text(json.dumps({"files": self.files, "parts": self.parts}, indent=2) + "\n")

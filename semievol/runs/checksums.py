"""The checksums of the input files, so that the same bytes count as the same file when they are uploaded again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from semievol.data.storage import FileEntry
from semievol.runs.folder import RunFolder, checksums

_FILE = "checksums.json"
_OF_A_COMMIT = re.compile(r"hf://[^@]+@[0-9a-f]{40}/.*")  # such a file never changes


class Checksums:
    """Remembers checksums in the run folder, by URI, size and time: a file that did not change is read once."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def add_to(self, files: Iterable[FileEntry]) -> list[FileEntry]:
        """Return the files with their checksums. Reads those that are new or have another time."""
        files = list(files)
        known: dict[str, str] = self._folder.read_json(_FILE)
        keys = [f"{file.uri} {file.size} {file.mtime_ns}" for file in files]
        lasting = [file.mtime_ns > 0 or bool(_OF_A_COMMIT.fullmatch(file.uri)) for file in files]
        to_read = [i for i, key in enumerate(keys) if key not in known or not lasting[i]]
        read = dict(zip(to_read, checksums([files[i].uri for i in to_read]), strict=True))
        if new := {keys[i]: digest for i, digest in read.items() if lasting[i]}:
            self._folder.write_json(_FILE, known | new)
        return [replace(file, sha256=read.get(i) or known[keys[i]]) for i, file in enumerate(files)]

"""API keys: named, kept as hashes, compared in constant time.

A key is 256 random bits, so a plain SHA-256 is enough to store it: there is nothing to guess that a slow hash would
protect. A key file has one `NAME:sha256:HEX` a line; the environment variable holds the same, separated by commas.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection

from semievol.data import storage
from semievol.errors import UserError

ENVIRONMENT = "SEMIEVOL_API_KEYS"
_PREFIX = "sk-semievol-"
_LINE = re.compile(r"([\w.-]{1,64}):sha256:([0-9a-f]{64})")


class Keys:
    """Who may use the endpoint."""

    def __init__(self, hashes: dict[str, str]) -> None:
        self._hashes = hashes  # name: hex SHA-256

    @property
    def names(self) -> Collection[str]:
        return self._hashes.keys()

    def __len__(self) -> int:
        return len(self._hashes)

    @staticmethod
    def parse(text: str, source: str) -> Keys:
        """Read key lines; empty lines and comments (#) are skipped.

        Raises:
            UserError: a line is no key line, or a name stands twice. The line itself is not shown: it may be a key.
        """
        hashes: dict[str, str] = {}
        for number, line in enumerate(re.split(r"[\n,]", text), start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise UserError(f"{source}, entry {number}: not NAME:sha256:HEX. Make keys with `semievol key NAME`")
            if match[1] in hashes:
                raise UserError(f"{source}, entry {number}: the name '{match[1]}' stands twice")
            hashes[match[1]] = match[2]
        return Keys(hashes)

    def owner(self, key: str) -> str | None:
        """The name of a key, or None. Takes as long for a wrong key as for a right one."""
        digest = _digest(key)
        found = None
        for name, known in self._hashes.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def read(source: str | None, environment: str | None) -> str:
    """The text of all key lines, from a file or URI or else from the environment variable; empty where there is none."""
    if source:
        if not storage.exists(source):
            raise UserError(f"serving.keys: no file '{source}'. Make one with `semievol key NAME --file {source}`")
        return storage.read_text(source)
    return environment or ""


def add(name: str, file: str) -> str:
    """Add a new key to a key file, as its hash; returns the key, which is kept nowhere.

    Raises:
        UserError: the name is not one, or stands in the file.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    line = f"{name}:sha256:{_digest(key)}"
    if not _LINE.fullmatch(line):
        raise UserError(f"'{name}' is no name for a key: up to 64 letters, digits, . _ -")
    lines = storage.read_text(file).splitlines() if storage.exists(file) else []
    if name in Keys.parse("\n".join(lines), file).names:
        raise UserError(f"{file}: '{name}' has a key already; delete its line first, or take another name")
    text = "\n".join([*lines, line, ""])
    storage.write_text(file, text)
    return key


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()

"""API keys: named, kept as hashes, compared in constant time.

A key is 256 random bits, so SHA-256 is enough: nobody can guess a key, and a slow hash would not help. A key file has one
`NAME:sha256:HEX` per line. The environment variable has the same entries, separated by commas.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from semievol.data import storage
from semievol.errors import UserError

ENVIRONMENT = "SEMIEVOL_API_KEYS"
_LINE = re.compile(r"([\w.-]{1,64}):sha256:([0-9a-f]{64})")


class Keys(dict[str, str]):
    """The hashes (hex SHA-256) of the keys that may use the endpoint, by name."""

    @staticmethod
    def parse(text: str, source: str) -> Keys:
        """Read key lines; empty lines and comments (#) are skipped. An error does not show the line, as it may be a key."""
        keys = Keys()
        for number, line in enumerate(re.split(r"[\n,]", text), start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise UserError(f"{source}, entry {number}: not NAME:sha256:HEX. Make keys with `semievol key NAME`")
            if match[1] in keys:
                raise UserError(f"{source}, entry {number}: the name '{match[1]}' is there twice")
            keys[match[1]] = match[2]
        return keys

    def owner(self, key: str) -> str | None:
        """Return the name of a key, or None. A wrong key takes as long as a right one."""
        digest = _digest(key)
        owners = [name for name, known in self.items() if hmac.compare_digest(digest, known)]
        return owners[-1] if owners else None


def read(source: str | None, environment: str | None) -> str:
    """Return the key lines from a file or URI, else from the environment variable; empty if there are none."""
    if source:
        if not storage.exists(source):
            raise UserError(f"serving.keys: no file '{source}'. Make one with `semievol key NAME --file {source}`")
        return storage.read_text(source)
    return environment or ""


def add(name: str, file: str) -> str:
    """Add the hash of a new key to a key file, and return the key. The key itself is not stored."""
    key = "sk-semievol-" + secrets.token_urlsafe(32)
    line = f"{name}:sha256:{_digest(key)}"
    if not _LINE.fullmatch(line):
        raise UserError(f"'{name}' is not a valid key name: use up to 64 letters, digits, . _ -")
    lines = storage.read_text(file).splitlines() if storage.exists(file) else []
    if name in Keys.parse("\n".join(lines), file):
        raise UserError(f"{file}: '{name}' has a key already; delete its line first, or use another name")
    storage.write_text(file, "\n".join([*lines, line, ""]))
    return key


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()

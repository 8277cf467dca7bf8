"""What becomes of one row and one file; the stage as a whole is in tests/ray/test_ingest.py."""

from collections.abc import Collection, Iterator
from typing import Any

import pytest

from semievol import config
from semievol.data import readers, storage
from semievol.errors import UserError
from semievol.stages import ingest

CONFIG = config.loads(
    "{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t, columns: {stratum: source}}}",
    ["limits.bad_shards=quarantine"],
    "made here",
)


def test_the_stratum_is_looked_at_like_any_other_cell() -> None:
    row = {"question": "q", "options": ["x", "y"]}

    def stratum(value: Any) -> tuple[Any, Any]:
        record = ingest._record(row | {"source": value}, "unlabeled", CONFIG)
        return record.get("stratum"), record.get("reason")

    assert stratum(" a ") == ("a", None)
    assert stratum(7) == ("7", None)
    assert stratum(None) == stratum("") == (None, None)
    assert stratum("caf\udce9") == (None, "column 'source' is not valid UTF-8")
    assert stratum({"a": 1}) == (None, "column 'source' holds a dict, not text")


def test_a_store_that_fails_for_a_moment_does_not_break_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Collection[str]] = []

    def read(uri: str, wanted: Collection[str], *_: Any, lasting: bool = False) -> Iterator[tuple[int, Any]]:
        reads.append(wanted)
        for position in (1, 2, 4, 5):
            if position == 4 and (lasting or len(reads) == 1):
                raise UserError(f"{uri}: cannot be read to its end: connection reset")
            yield position, {"question": str(position)}

    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr(readers, "read", read)
    assert [position for position, _ in ingest._readable("s3://f", CONFIG)] == [1, 2, 4, 5]
    assert len(reads) == 2 and set(reads[0]) == {"question", "options", "answer", "source"}

    monkeypatch.setattr(readers, "read", lambda uri, wanted, *_: read(uri, wanted, lasting=True))
    monkeypatch.setattr(storage, "sha256", lambda uri: "")
    *rows, (position, broken) = ingest._readable("s3://f", CONFIG)
    assert [number for number, _ in rows] == [1, 2] and position == 3
    assert waits == [1.0, 1.0, 10.0]  # once after the first reset, and twice before the second one is believed
    assert isinstance(broken, readers.Broken) and "after row 2: s3://f: cannot be read" in broken.raw

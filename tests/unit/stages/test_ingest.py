"""What becomes of one row and one file; the stage as a whole is in tests/ray/test_ingest.py."""

import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol import config
from semievol.data import readers, storage
from semievol.data.inputs import inputs
from semievol.errors import UserError
from semievol.stages import ingest
from tests.support.conversations import chats

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


def chats_in(folder: Path, **files: str) -> config.RunConfig:
    """A config of chats, with the files of each split, whose names are all different formats."""
    given = [f"data.{split}={folder / name}" for split, name in files.items()]
    minimal = "{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}, task: {kind: chat}}"
    return config.loads(minimal, [*given, "data.columns.oracle=messages"], "made here")


def test_chats_come_from_files_of_every_format(tmp_path: Path) -> None:
    rows = chats(3, seed=0)
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (tmp_path / "u.csv").open("w", newline="") as out:
        csv.writer(out).writerows(
            [["id", "messages"], *((i, json.dumps(row["messages"])) for i, row in enumerate(rows))]
        )
    pq.write_table(pa.Table.from_pylist([row | {"far": 1 << 40} for row in rows]), tmp_path / "t.parquet")
    found = chats_in(tmp_path, labeled="l.jsonl", unlabeled="u.csv", test="t.parquet")
    records = {}
    for split, [file] in inputs(found).items():
        records[split] = [ingest._record(raw, split, found) for _, raw in ingest._readable(file.uri, found)]
    for i, row in enumerate(rows):
        system, user, assistant, asked, answer = row["messages"]
        expected = {"question": asked["content"], "history": [system, user, assistant], "options": []}
        labeled, unlabeled, test = (records[split][i] for split in ("labeled", "unlabeled", "test"))
        assert labeled == test and labeled.items() >= (expected | {"answer": answer["content"], "note": None}).items()
        left_out = "the chat ends with an answer, which was left out"
        assert unlabeled.items() >= (expected | {"answer": None, "oracle": answer["content"], "note": left_out}).items()
        assert unlabeled["row_id"] == labeled["row_id"]
    bad = ingest._record({"messages": [{"role": "tool", "content": "x"}]}, "labeled", found)
    assert bad["row_id"] is None and "of a tool" in bad["reason"]


def test_files_without_chats_are_told_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("prompt,label\na,b\n")
    found = chats_in(tmp_path, labeled="l.csv", unlabeled="l.csv", test="l.csv")
    says = (
        "l.csv has no column with the answers to 'prompt'. It has prompt, label. Name yours with data.columns.messages"
    )
    with pytest.raises(UserError, match=re.escape(says)):
        inputs(found)


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

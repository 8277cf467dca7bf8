"""Malformed input ends in quarantine or in an error that names the file. All kinds together pass the stage in tests/ray."""

import json
from pathlib import Path

import pytest

from semievol import config
from semievol.config import RunConfig
from semievol.data import readers, storage
from semievol.errors import UserError
from semievol.stages import ingest
from tests.support.malformed import FILES, LINE_BYTES, UNREADABLE


@pytest.fixture(scope="module")
def run_config() -> RunConfig:
    return config.loads("{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}", [], "here")


def parsed(file: Path, split: str, run_config: RunConfig) -> tuple[list[dict], int]:
    """What ingest reads from a file, and how many rows it says there were."""
    batch = {"split": [split], "uri": [str(file)], "number": [0], "known": [False]}
    tables = list(ingest._parse(batch, run_config, buckets=3, out=str(file.parent / "out")))
    counted = json.loads(storage.read_text(f"{file.parent}/out/_read/000000.json"))
    return [row for table in tables for row in table.to_pylist()], counted["rows"]


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_kept_or_has_a_reason(
    name: str, tmp_path: Path, run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_LINE_BYTES", LINE_BYTES)
    file = tmp_path / name
    file.write_bytes(FILES[name]())
    run_config.limits.bad_shards = "quarantine"
    for split in ("labeled", "unlabeled"):
        rows, counted = parsed(file, split, run_config)
        assert counted == len(rows)
        for row in rows:
            assert (row["row_id"] is None) == (row["reason"] is not None)
            assert row["reason"] is None or (len(row["reason"]) < 300 and row["raw"] is not None)
            assert row["raw"] is None or len(row["raw"].encode()) < 50_000
        unreadable = [row for row in rows if row["reason"] == "the shard cannot be read to its end"]
        assert bool(unreadable) == (name in UNREADABLE), [row["reason"] for row in rows]
    run_config.limits.bad_shards = "stop"
    if name in UNREADABLE:
        with pytest.raises(
            UserError, match=rf"{name}: cannot be read to its end: .*Repair or remove the file"
        ) as refused:
            parsed(file, "unlabeled", run_config)
        assert len(str(refused.value)) < 700


def test_there_are_a_hundred_kinds() -> None:
    assert len(FILES) >= 100

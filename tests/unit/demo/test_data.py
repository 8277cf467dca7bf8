"""The demo's data: what its first stage and its text promise."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from semievol.demo import phrases, run
from semievol.demo.data import SHARES, write_dataset


def read(files: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_seed_makes_the_same_tickets_and_every_queue_has_labeled_ones(tmp_path: Path) -> None:
    counts = write_dataset(tmp_path / "a", seed=0)
    write_dataset(tmp_path / "b", seed=0)
    write_dataset(tmp_path / "c", seed=1)
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*.jsonl"))
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()
    labeled, test = (read([tmp_path / "a" / f"{split}.jsonl"]) for split in ("labeled", "test"))
    unlabeled = read(sorted((tmp_path / "a" / "unlabeled").iterdir()))
    assert counts == {"labeled": len(labeled), "unlabeled": len(unlabeled), "test": len(test)}
    per_queue = Counter(row["queue"] for row in labeled)
    assert per_queue.keys() == {*SHARES, ""} == {*phrases.QUEUES, ""}  # one row is broken
    assert per_queue["Payment"] > per_queue["Legal"]
    assert all("queue" not in row and row["oracle"] in SHARES for row in unlabeled)
    tickets = Counter(row["ticket"] for row in unlabeled)
    assert sum(tickets.values()) - len(tickets) >= 8  # duplicates
    assert len(tickets.keys() & {row["ticket"] for row in test}) >= 2


def test_the_demo_is_prepared_once(tmp_path: Path) -> None:
    said: list[str] = []
    config, overrides = run.prepare(str(tmp_path), seed=3, echo=said.append)
    assert Path(config).name == "demo.yaml" and f"storage={tmp_path}/seed-3" in overrides
    labeled = tmp_path / "seed-3" / "data" / "labeled.jsonl"
    assert f"{len(labeled.read_text().splitlines())} labeled" in said[0]
    before = labeled.stat().st_mtime_ns
    assert run.prepare(str(tmp_path), seed=3, echo=said.append) == (config, overrides)
    assert labeled.stat().st_mtime_ns == before


@pytest.mark.parametrize("queue", SHARES)
def test_a_queues_name_is_none_of_its_terms(queue: str) -> None:
    terms = phrases.QUEUES[queue]
    assert len(terms) == len(set(terms)) >= 24
    assert queue.lower() not in terms

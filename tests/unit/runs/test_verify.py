"""What `semievol verify` finds in a run folder that somebody has meddled with."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol import config
from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import (
    LABELED,
    LABELED_RETRIEVED,
    PREDICTED,
    PSEUDO_LABELED,
    RETRIEVED,
    SELECTED,
    TRAINING,
    UNLABELED,
)
from semievol.runs.folder import RunFolder
from semievol.runs.verify import Verified, verify
from semievol.stages.base import Rows, StageResult

LABELED_IDS, UNLABELED_IDS, TEST_IDS = range(4), range(100, 110), range(200, 203)


def write(folder: str, ids: Any, schema: pa.Schema, **columns: Any) -> None:
    rows = [{"row_id": i, "question": f"q{i}", "options": [], "answer": "A"} | columns for i in ids]
    names = set(schema.names)
    kept = [{name: value for name, value in row.items() if name in names} for row in rows]
    storage.write_table(f"{folder}/part-0.parquet", pa.Table.from_pylist(kept, schema=schema))


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunFolder, RunConfig]:
    """A finished run of a few rows, one of which is in quarantine since labeling."""
    text = f"{{name: run, storage: {tmp_path}, model: {{base: m}}, data: {{labeled: l, unlabeled: u, test: t}}}}"
    folder = RunFolder(str(tmp_path), "run")
    folder.write_json("run.json", {"name": "run", "id": "this-run"})
    near = {"neighbor_ids": [1, 2], "neighbor_scores": [0.5, 0.4]}
    at = {name: folder.stage(name) for name in ("ingest", "index", "warmup", "retrieve", "label", "select", "finetune")}
    at |= {f"evaluate/{model}": folder.stage(f"evaluate/{model}") for model in ("base", "warm", "evolved", "compare")}
    for split, ids, schema in (
        ("labeled", LABELED_IDS, LABELED),
        ("unlabeled", UNLABELED_IDS, UNLABELED),
        ("test", TEST_IDS, LABELED),
    ):
        write(f"{at['ingest']}/{split}", ids, schema)
    write(f"{at['index']}/rows", LABELED_IDS, LABELED_RETRIEVED, **near)
    write(f"{at['warmup']}/rows", LABELED_IDS, TRAINING)
    write(f"{at['retrieve']}/rows", UNLABELED_IDS, RETRIEVED, **near)
    write(f"{at['label']}/rows", UNLABELED_IDS, PSEUDO_LABELED)
    write(f"{at['select']}/rows", UNLABELED_IDS[:-1], SELECTED)
    write(f"{at['finetune']}/rows", [*LABELED_IDS, *UNLABELED_IDS[:5]], TRAINING)
    for model in ("base", "warm", "evolved"):
        write(f"{at[f'evaluate/{model}']}/rows", TEST_IDS, PREDICTED)
    counts = {"ingest": Rows(19, 17, duplicates=2), "index": Rows(4, 4), "warmup": Rows(4, 4), "retrieve": Rows(10, 10)}
    counts |= {"label": Rows(10, 9, quarantined=1), "select": Rows(9, 9), "finetune": Rows(9, 9)}
    folder.record(0, (storage.FileEntry("u", 1, 1),), finished=True)
    for name in at:
        folder.commit((name, 0), "f", StageResult(counts.get(name, Rows(3, 3)), {}, ""), 1.0)
    return folder, config.loads(text, [], "here")


def found(run: tuple[RunFolder, RunConfig]) -> Verified:
    return verify(*run, lambda _: None)


def commit_again(folder: RunFolder, stage: str) -> None:
    """As if the stage itself had written what is there now."""
    rows = folder.manifest(stage).rows  # type: ignore[union-attr]
    storage.delete_file(f"{folder.stage(stage)}/manifest.json")
    folder.commit((stage, 0), "f", StageResult(rows, {}, ""), 1.0)


def test_an_untouched_run_is_all_right(run: tuple[RunFolder, RunConfig]) -> None:
    lines: list[str] = []
    seen = verify(*run, lines.append)
    assert seen.problems == []
    assert (seen.stages, seen.files, seen.rows) == (11, 12, 17 + 4 + 4 + 10 + 10 + 9 + 9 + 3 * 3)
    assert len(lines) == 11 and lines[0].startswith("round-0/ingest ") and lines[0].endswith("ok")


def test_each_thing_that_may_have_happened_to_it_is_found(run: tuple[RunFolder, RunConfig]) -> None:
    folder, _ = run
    part = Path(folder.stage("retrieve"), "rows", "part-0.parquet")
    whole = part.read_bytes()
    part.unlink()
    assert found(run).problems == ["round-0/retrieve: rows/part-0.parquet is missing"]
    part.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    (problem,) = found(run).problems
    assert problem == "round-0/retrieve: rows/part-0.parquet has other content than it was written with (SHA-256)"
    part.write_bytes(whole + b" ")
    (problem,) = found(run).problems
    assert problem == f"round-0/retrieve: rows/part-0.parquet has {len(whole) + 1:,} bytes, not {len(whole):,}"
    part.write_bytes(whole)
    (part.parent / "part-1.parquet").write_bytes(whole)
    assert found(run).problems == ["round-0/retrieve: rows/part-1.parquet is in no manifest"]
    (part.parent / "part-1.parquet").unlink()
    assert found(run).problems == []

    manifest = Path(folder.stage("label"), "manifest.json")
    own = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(own) | {"run": "other"}))
    assert found(run).problems == [
        "round-0/label: manifest.json is that of another run (other); see id in run.json",
    ]
    old = json.loads(own) | {"run": ""}  # as version 0.2 wrote them
    old["files"] = [{name: file[name] for name in ("path", "size")} for file in old["files"]]
    manifest.write_text(json.dumps(old))
    assert found(run).problems == []
    manifest.write_text(own.replace('"came_in": 10', '"came_in": 11'))
    assert found(run).problems == ["round-0/label: 11 rows came in, but 10 are accounted for"]
    manifest.write_text("{")
    assert found(run).problems[0].startswith("round-0/label: manifest.json cannot be read")
    manifest.unlink()
    assert found(run).problems == ["round-0/select: reads label, which is not finished; `semievol run` finishes it"]


def test_ids_are_unique_and_those_of_the_stage_before(run: tuple[RunFolder, RunConfig]) -> None:
    folder, _ = run
    rows = f"{folder.stage('label')}/rows"
    write(rows, [*UNLABELED_IDS[:-1], 100], PSEUDO_LABELED)
    commit_again(folder, "label")
    before = f"{folder.stage('retrieve')}/rows"
    assert found(run).problems == [
        "round-0/label: 1 row ids occur more than once, 100 first",
        f"round-0/label: 1 row ids of {before} are missing, 109 first",
    ]
    write(rows, [*UNLABELED_IDS[:-1], 999], PSEUDO_LABELED)
    commit_again(folder, "label")
    assert f"round-0/label: 1 row ids are not in {before}, 999 first" in found(run).problems
    write(rows, UNLABELED_IDS[:-1], PSEUDO_LABELED)
    commit_again(folder, "label")
    assert "round-0/label: 9 rows written, and its manifest says 10" in found(run).problems
    write(rows, UNLABELED_IDS, PSEUDO_LABELED)
    commit_again(folder, "label")
    write(before, UNLABELED_IDS, RETRIEVED, neighbor_ids=[1, 77], neighbor_scores=[0.5, 0.4])
    commit_again(folder, "retrieve")
    assert found(run).problems == ["round-0/retrieve: 1 neighbor ids are not labeled rows, 77 first"]
    write(before, UNLABELED_IDS, RETRIEVED, neighbor_ids=[1], neighbor_scores=[0.5])
    commit_again(folder, "retrieve")
    write(f"{folder.stage('finetune')}/rows", [*LABELED_IDS, *UNLABELED_IDS[:4], 999], TRAINING)
    commit_again(folder, "finetune")
    labeled, selected = f"{folder.stage('ingest')}/labeled", f"{folder.stage('select')}/rows"
    assert found(run).problems == [f"round-0/finetune: 1 row ids are not in {labeled} or {selected}, 999 first"]


def test_stages_of_other_settings_are_not_compared_and_a_folder_without_any_is_no_run(
    run: tuple[RunFolder, RunConfig], tmp_path: Path
) -> None:
    folder, run_config = run
    write(f"{folder.stage('retrieve')}/rows", range(10), RETRIEVED)
    commit_again(folder, "retrieve")
    assert len(found(run).problems) == 2
    folder.write_json("run.json", {"name": "run", "id": "this-run", "fingerprints": {"round-0/retrieve": "another"}})
    lines: list[str] = []
    assert verify(folder, run_config, lines.append).problems == []
    assert sum("of other settings or data" in line for line in lines) == 1
    (problem,) = verify(RunFolder(str(tmp_path), "empty"), run_config, lines.append).problems
    assert "no finished stage" in problem

"""The files of a split: empty ones, a header in one of them only, columns that differ, keys that are left out."""

from pathlib import Path

import pytest

from semievol import config
from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.inputs import inputs
from semievol.errors import UserError
from semievol.stages import ingest

COLUMNS = "columns: {question: text, answer: label, options: null, context: passage, stratum: null}"


@pytest.fixture
def run_config(tmp_path: Path) -> RunConfig:
    found = config.loads(
        f"{{name: x, model: {{base: m}}, task: {{kind: free_text}}, data: {{labeled: {tmp_path}/l, unlabeled: {tmp_path}/u, "
        f"test: {tmp_path}/t, {COLUMNS}}}}}",
        ["data.columns.context=null"],
        "here",
    )
    for name in "lut":
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text("text,label\nx,pos\ny,neg\n")
    return found


def read(run_config: RunConfig, split: str) -> list[tuple]:
    """What ingest reads from all files of a split, with the reasons."""
    files = storage.find(getattr(run_config.data, split))
    shared = ingest._shared([(split, file) for file in files], run_config)
    found = []
    for number, file in enumerate(files):
        batch = {
            "split": [split],
            "uri": [file.uri],
            "number": [number],
            "known": [False],
            "shared": [shared[split, file.uri]],
        }
        for table in ingest._parse(batch, run_config, buckets=1, out=f"{files[0].uri}.out"):
            found += [(row["question"], row["answer"] or row["reason"]) for row in table.to_pylist()]
    return found


def test_empty_files_are_files_of_no_rows(run_config: RunConfig, tmp_path: Path) -> None:
    for name in ("0.csv", "b.csv", "c.jsonl", "d.json", "e.csv"):
        (tmp_path / "l" / name).write_text("text,other\n" if name == "e.csv" else "")
    (tmp_path / "l" / "f.jsonl").write_text("\n\n")
    inputs(run_config)
    assert read(run_config, "labeled") == [("x", "pos"), ("y", "neg")]
    (tmp_path / "l" / "a.csv").write_text("")
    (tmp_path / "l" / "e.csv").unlink()
    with pytest.raises(UserError, match=r"data.labeled: .*0.csv has no columns: it is empty"):
        inputs(run_config)


@pytest.mark.parametrize("name", ["0.csv", "b.csv"])
@pytest.mark.parametrize("first", ["A sentence.,pos", "x,neg", "z,7", "z,"])
def test_a_part_without_a_header_takes_that_of_another(
    name: str, first: str, run_config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "l" / name).write_text(f"{first}\nx,neg\nq,pos\n")
    notes: list[str] = []
    inputs(run_config, notes=notes)
    assert notes == [
        f"data.labeled: {tmp_path}/l/{name} has no header line; its columns are those of another file: text, label"
    ]
    text, label = first.split(",")
    assert (text, label or "column 'label' is empty") in [(q or text, a) for q, a in read(run_config, "labeled")]
    assert len(read(run_config, "labeled")) == 5


@pytest.mark.parametrize(
    ("content", "column", "way_out"),
    [
        ("sentence,label\nx,pos\n", "text", "Name yours in data.columns.question"),
        ("text,class\nx,pos\n", "label", "Name yours in data.columns.answer"),
        ("A sentence.,pos,more\nx,neg,more\n", "text", "looks like a row: put a line with the names"),
    ],
)
def test_a_part_that_lacks_a_column_is_named(
    content: str, column: str, way_out: str, run_config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "l" / "part-1.csv").write_text(content)
    with pytest.raises(
        UserError,
        match=rf"data.labeled: .*part-1.csv has no column '{column}'; it has .*{way_out}.*. Other files have it",
    ):
        inputs(run_config)
    (tmp_path / "l" / "a.csv").unlink()
    with pytest.raises(UserError, match=rf"has no column '{column}'.*{way_out}[^.]*$"):
        inputs(run_config)


def test_no_file_has_a_header(run_config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "l" / "a.csv").write_text("It works.,pos\nIt fails.,neg\n")
    with pytest.raises(
        UserError, match=r"a.csv has no column 'text'; it has It works., pos. That looks like a row: put a line"
    ):
        inputs(run_config)


def test_json_leaves_out_keys_that_have_no_value(run_config: RunConfig, tmp_path: Path) -> None:
    run_config.data.columns.context = "passage"
    for name in "lut":
        (tmp_path / name / "a.csv").unlink()
        (tmp_path / name / "a.jsonl").write_text('{"text": "x", "label": "pos"}\n' * 300)
        (tmp_path / name / "b.json").write_text('[{"label": "pos", "text": "y"}]')
    with pytest.raises(UserError, match=r"a.jsonl has no column 'passage'; it has text, label"):
        inputs(run_config)
    for name in "lut":
        with open(tmp_path / name / "a.jsonl", "a") as file:
            file.write('{"text": "z", "label": "pos", "passage": "p"}\n')
    inputs(run_config)
    assert len(read(run_config, "labeled")) == 302


def test_texts_alone_are_unlabeled_rows(run_config: RunConfig, tmp_path: Path) -> None:
    for name in "ul":
        (tmp_path / name / "a.csv").unlink()
        (tmp_path / name / "texts.TXT").write_text("one, with a comma\n\n two \n", encoding="utf-16")
    with pytest.raises(UserError, match=r"data.labeled: .*no column 'label'.*A .txt file holds texts and nothing else"):
        inputs(run_config)
    (tmp_path / "l" / "texts.TXT").unlink()
    (tmp_path / "l" / "a.csv").write_text("text,label\nx,pos\n")
    notes: list[str] = []
    inputs(run_config, notes=notes)
    assert notes == [f"data.unlabeled: {tmp_path}/u/texts.TXT is not UTF-8; read as UTF-16"]
    assert [question for question, _ in read(run_config, "unlabeled")] == ["one, with a comma", "two"]


def test_a_file_that_cannot_be_read_stops_a_run_unless_it_may_be_left_out(
    run_config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "l" / "0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"data.labeled: .*0.parquet: cannot be read"):
        inputs(run_config)
    (tmp_path / "l" / "b.csv").write_text("other,columns\nx,pos\n")
    run_config.limits.bad_shards = "quarantine"
    inputs(run_config)
    assert ("x", "pos") in read(run_config, "labeled") and len(read(run_config, "labeled")) == 5

from pathlib import Path

import pyarrow as pa
import pytest

from semievol.data import storage
from semievol.errors import UserError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/1.csv", "a/2.jsonl", "a/deep/3.csv", "a/.hidden.csv", "a/_temporary/4.csv", "b.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def names(pattern: Path | str) -> list[str]:
    return [entry.uri.rsplit("/", 1)[1] for entry in storage.find(str(pattern))]


def test_find_takes_files_folders_globs_and_uris(tree: Path) -> None:
    assert names(tree / "b.csv") == ["b.csv"]
    assert names(tree / "a") == ["1.csv", "2.jsonl", "3.csv"]
    assert names(f"{tree}/a/") == ["1.csv", "2.jsonl", "3.csv"]
    assert names(tree / "a" / "*.csv") == ["1.csv"]  # as in a shell: a run folder beside the data is no data
    assert names(tree / "a" / "**" / "*.csv") == ["1.csv", "3.csv"]
    assert names(tree / "**") == ["1.csv", "2.jsonl", "3.csv", "b.csv"]
    assert names(tree / "[ab]" / "?.csv") == names(f"file://{tree}/[ab]/?.csv") == ["1.csv"]
    assert names(tree / "[ab]") == names(f"{tree}/a*/") == ["1.csv", "2.jsonl", "3.csv"]  # folders
    with pytest.raises(UserError, match=r"a/\*\*.csv: .*\*\*"):
        names(tree / "a" / "**.csv")
    assert names(tree / "*" / "1.csv") == ["1.csv"]
    assert names(f"file://{tree}/a") == ["1.csv", "2.jsonl", "3.csv"]
    assert storage.find(f"file://{tree}/a")[0].uri == f"file://{tree}/a/1.csv"
    assert names(f"file://{tree}/a/*.jsonl") == ["2.jsonl"]
    assert names(tree / "none") == names(tree / "none" / "*.csv") == []
    assert storage.find(str(tree / "b.csv"))[0].size == 1


def test_a_path_that_is_there_means_itself(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]*"
    for name in ("x.csv", "_commits/rows/y.csv"):
        storage.write_text(f"{folder}/{name}", "x")
    assert names(folder) == names(folder / "x.csv") == ["x.csv"]
    assert names(folder / "_commits") == ["y.csv"]


def test_write_is_all_or_nothing_and_makes_folders(tmp_path: Path) -> None:
    target = tmp_path / "x" / "y.txt"
    storage.write_text(str(target), "one")
    storage.write_text(str(target), "two")
    assert storage.read_text(f"file://{target}") == "two"
    assert [p.name for p in target.parent.iterdir()] == ["y.txt"]  # no temporary file is left
    storage.delete(str(target.parent))
    storage.delete(str(target.parent))
    assert not storage.exists(str(target))


def test_tables(tmp_path: Path) -> None:
    for i in range(2):
        storage.write_table(f"{tmp_path}/t/part-{i}.parquet", pa.table({"a": [i], "b": ["x"]}))
    storage.write_text(f"{tmp_path}/t/_commits/ignored.parquet", "")
    assert storage.read_table(f"{tmp_path}/t", ["a"]).to_pylist() == [{"a": 0}, {"a": 1}]
    assert storage.count_rows(f"{tmp_path}/t") == 2


def test_a_local_folder_is_its_own_local_copy(tmp_path: Path) -> None:
    storage.write_text(f"{tmp_path}/model/config.json", "{}")
    assert storage.local_copy(f"{tmp_path}/model") == storage.local_copy(f"file://{tmp_path}/model")
    assert storage.local_copy(f"{tmp_path}/model") == f"{tmp_path}/model"


def test_a_uri_of_no_known_store_is_named() -> None:
    with pytest.raises(UserError, match="nope://x"):
        storage.resolve("nope://x/y")


def test_credentials_and_options_in_a_uri_are_refused_without_repeating_them() -> None:
    for uri in ("s3://key:secret@bucket/x", "s3://bucket/x?endpoint_override=localhost"):
        with pytest.raises(UserError, match="must not hold options or credentials") as refused:
            storage.resolve(uri)
        assert "secret" not in str(refused.value)

"""Storage on an S3 server: the same calls as on a disk, one download for each node, and errors that say what to do."""

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from semievol.data import storage
from semievol.errors import UserError


def test_files_tables_and_folders(s3: str) -> None:
    root = f"{s3}/files"
    storage.write_text(f"{root}/a b/one.txt", "one")
    storage.write_text(f"{root}/a b/one.txt", "two")
    assert storage.read_text(f"{root}/a b/one.txt") == "two"
    storage.write_text(f"{root}/_hidden/three.txt", "")
    assert [(file.uri, file.size) for file in storage.find(root)] == [(f"{root}/a b/one.txt", 3)]
    assert storage.find(f"{root}/*/*.txt")[0].uri == storage.find(f"{root}/a b/one.txt")[0].uri
    assert storage.find(f"{root}/none") == storage.find(f"{root}/none/*.txt") == []
    for i in range(2):
        storage.write_table(f"{root}/table/part-{i}.parquet", pa.table({"a": [i]}))
    assert storage.read_table(f"{root}/table/").to_pylist() == [{"a": 0}, {"a": 1}]
    assert storage.count_rows(f"{root}/table") == 2
    storage.delete_file(f"{root}/a b/one.txt")
    assert not storage.exists(f"{root}/a b/one.txt") and storage.exists(f"{root}/table")
    storage.delete(root)
    storage.delete(root)
    assert not storage.exists(root) and storage.exists(s3)


@pytest.fixture
def fetched() -> Iterator[list[str]]:
    """The objects that the server was asked for, one entry for each time."""
    requests: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = record.getMessage()
            if "GET /" in line and "list-type" not in line:
                requests.append(line.split("GET ")[1].split()[0])

    log, handler = logging.getLogger("werkzeug"), Collect(logging.INFO)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield requests
    log.removeHandler(handler)
    log.setLevel(level)


def _local_copy(uri: str) -> str:
    return storage.local_copy(uri)


def test_a_model_is_downloaded_once_for_all_processes_of_a_node(
    s3: str, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "sub" / "weights").write_bytes(os.urandom(1 << 16))
    storage.upload(str(tmp_path / "model"), f"{s3}/model")
    with multiprocessing.get_context("spawn").Pool(3) as processes:
        copies = set(processes.map(_local_copy, [f"{s3}/model"] * 6, chunksize=1))
    (copy,) = copies
    assert copy.startswith(str(tmp_path / "tmp"))
    assert (Path(copy) / "sub" / "weights").read_bytes() == (tmp_path / "model" / "sub" / "weights").read_bytes()
    assert sorted(fetched) == ["/bucket/model/config.json", "/bucket/model/sub/weights"]
    assert [file.name for file in Path(storage.local_copy(f"{s3}/model/sub")).iterdir()] == ["weights"]
    storage.write_text(f"{s3}/model/config.json", '{"changed": true}')
    assert storage.local_copy(f"{s3}/model") != copy


def test_a_bucket_that_is_not_there_is_named(s3: str) -> None:
    for use in (storage.find, storage.exists, lambda uri: storage.write_text(uri, "")):
        with pytest.raises(UserError, match=r"s3://no-such-bucket: there is no such bucket; create it"):
            use("s3://no-such-bucket/x")


def test_a_store_that_is_not_reached_is_named_soon(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"s3://far-away/x: .*check the network and AWS_ENDPOINT_URL"):
        storage.exists("s3://far-away/x")
    assert time.monotonic() - started < 60  # the SDK's own few retries, not minutes of them


def test_refused_credentials_are_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_text(f"{s3}/before", "")
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)  # the server knows no key from here on
    with pytest.raises(UserError, match=r"s3://unopened/x: .*AWS_ACCESS_KEY_ID.*") as refused:
        storage.exists("s3://unopened/x")
    assert "testtest" not in str(refused.value)
    with pytest.raises(UserError, match=f"{s3}/after: .*AWS_ACCESS_KEY_ID"):
        storage.write_text(f"{s3}/after", "")  # rights that end while a run is under way

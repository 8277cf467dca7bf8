"""Where data may be: any URI of pyarrow or fsspec, and the hub. The hub is a folder here."""

import re
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from semievol.data import readers, sources, storage
from semievol.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def texts(pattern: str) -> list[str]:
    return [row["text"] for file in sources.find(pattern) for _, row in readers.read(file.uri) if isinstance(row, dict)]


def test_uris_that_only_fsspec_opens() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("/box@v2/a/1.csv", "/box@v2/a/2.tsv.gz", "/box@v2/a/_x/3.csv"):
        with memory.open(name, "wb", compression="infer") as file:
            file.write(b"text\tn\nx,\t1\n" if ".tsv" in name else b"text,n\nx,1\n")
    assert texts("memory://box@v2/a") == texts("memory://box@v2/a/*") == ["x", "x,"]
    assert texts("memory://box@v2/a/1.csv") == texts("memory://box@v2/**/[1].csv") == ["x"]
    assert storage.find("memory://box@v2/a/1.csv") == [storage.FileEntry("memory://box@v2/a/1.csv", 11, 0)]
    assert storage.find("memory://box@v2/none") == []
    storage.write_text("memory://out/b.txt", "b")
    assert storage.read_text("memory://out/b.txt") == "b" and storage.folders("memory://box@v2") == ["a"]
    table = pa.table({"text": ["p"]})
    storage.write_table("memory://out/t/p.parquet", table)
    assert storage.read_table("memory://out/t") == table and texts("memory://out/t") == ["p"]


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "s3://key:secret@bucket/x",
            "s3://secret@bucket/x",
            "s3://bucket/x?secret_key=secret",
            "gs://bucket/x?token=secret",
        ),
        *(
            "https://user:secret@host/x.csv",
            "https://secret@host/x.csv",
            "https://host/x.csv?key=secret",
            "https://host/x.csv?secret",
            "ftp://u:secret@host/x",
        ),
        *("sftp://u:secret@host/x", "abfs://c@account.net/x?sig=secret"),
    ],
)
def test_secrets_are_refused_and_not_repeated(uri: str) -> None:
    for use in (storage.resolve, sources.find):
        with pytest.raises(UserError, match="must not hold options or credentials") as refused:
            use(uri)
        assert "secret" not in str(refused.value)


def test_a_scheme_that_needs_a_package_says_which() -> None:
    with pytest.raises(UserError, match=r"sftp://user@host/x.*paramiko"):
        storage.resolve("sftp://user@host/x")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    files = {
        f"o/n@{COMMIT}/de/train-0.parquet": ["a"],
        f"o/n@{COMMIT}/de/train-1.parquet": ["b"],
        f"o/n@{COMMIT}/de/test-0.parquet": ["c"],
        f"o/n@{COMMIT}/en/train-0.parquet": ["d"],
        f"o/plain@{COMMIT}/train.parquet": ["e"],
        "o/n@v1/de/raw.parquet": ["f"],
        "o/n/de/raw.parquet": ["g"],
        "o/n/de/more/x.parquet": ["h"],
    }
    for name, cells in files.items():
        (tmp_path / "datasets" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": cells}), tmp_path / "datasets" / name)

    class Hub(DirFileSystem):  # type: ignore[misc]
        def __init__(self, **_: object) -> None:
            super().__init__(path=str(tmp_path), fs=fsspec.filesystem("file"))

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("hf://")

    monkeypatch.setattr("huggingface_hub.HfFileSystem", Hub)

    def names(name: str, revision: str | None) -> list[str]:
        if name not in ("o/n", "o/plain"):
            raise datasets.exceptions.DatasetNotFoundError(
                f"Dataset '{name}' doesn't exist on the Hub or cannot be accessed."
            )
        return ["de", "en"] if name == "o/n" else ["default"]

    def builder(name: str, subset: str | None, revision: str | None) -> SimpleNamespace:
        found: dict[str, list[str]] = {}
        for file in sorted(files):
            if file.startswith(f"{name}@{COMMIT}/{'' if subset in (None, 'default') else subset}"):
                split = re.split("[-.]", file.rpartition("/")[2])[0]
                found.setdefault(split, []).append(f"hf://datasets/{file}")
        return SimpleNamespace(config=SimpleNamespace(data_files=found))

    monkeypatch.setattr(datasets, "get_dataset_config_names", names)
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)


@pytest.mark.usefixtures("hub")
def test_splits_on_the_hub() -> None:
    assert texts("hf://datasets/o/n/de/train") == texts("hf://datasets/o/n@main/de/train/") == ["a", "b"]
    assert texts("hf://datasets/o/n/en") == ["d"]  # its only split
    assert texts("hf://datasets/o/plain") == texts("hf://datasets/o/plain/train") == ["e"]
    assert texts("hf://datasets/o/plain/default/train") == ["e"]
    assert texts("hf://datasets/o/n@v1/de/raw.parquet") == ["f"] and texts("hf://datasets/o/n/de/*.parquet") == ["g"]
    assert texts("hf://datasets/o/n/de/more") == ["h"]
    assert sources.find("hf://datasets/o/n/en")[0].uri == f"hf://datasets/o/n@{COMMIT}/en/train-0.parquet"
    for uri, problem in {
        "hf://datasets/o/n": "name one of its subsets: .../de, .../en",
        "hf://datasets/o/n/de": "name one of its splits: .../test, .../train",  # though there is a folder of this name
        "hf://datasets/o/n/de/dev": "has no subset or split 'dev'; subsets: de, en; splits: test, train",
        "hf://datasets/o/plain/fr/train": "has no subset or split 'fr/train'; subsets: default; splits: train",
        "hf://datasets/o/gone": "Dataset 'o/gone' doesn't exist.* private or gated data set needs HF_TOKEN.*hf download o/gone",
        "hf://datasets/n": r"write hf://datasets/OWNER/NAME\[@REVISION\]",
        "hf://o/n": "write hf://datasets/OWNER/NAME",
    }.items():
        with pytest.raises(UserError, match=f"{uri}: .*{problem}"):
            sources.find(uri)

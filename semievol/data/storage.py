"""Read and write files and folders by URI: local paths, and all that pyarrow or fsspec opens (s3://, gs://, abfs://, https://, ...).

All files of a run go through this module, so no other code assumes a disk that nodes share.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType, FSSpecHandler, LocalFileSystem, PyFileSystem, copy_files

from semievol.errors import UserError

_BUCKETS = ("s3", "gs", "gcs")
_NO_ACCOUNTS = (
    *_BUCKETS,
    "http",
    "https",
    "ftp",
)  # what stands before an @ there is a secret, and no user or container
_REMEDIES = {
    "NETWORK_CONNECTION": "the store cannot be reached; check the network and AWS_ENDPOINT_URL",
    "ACCESS_DENIED": "the store denies access; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions",
    "INVALID_ACCESS_KEY_ID": "the store does not know the key; check AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "the store rejects the key; check AWS_SECRET_ACCESS_KEY",
}


@dataclass(frozen=True)
class FileEntry:
    """A file with its size in bytes and its modification time (ns since the epoch; 0 if the store has none).

    With a checksum, the same bytes are the same file, even if they were uploaded again.
    """

    uri: str
    size: int
    mtime_ns: int = field(compare=False)
    sha256: str = ""  # empty: the content is not known


def absolute(uri: str) -> str:
    """Return a local path as an absolute one; return a URI unchanged."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    return posixpath.join(uri.rstrip("/"), *parts)


def resolve(uri: str) -> tuple[FileSystem, str]:
    """Return the filesystem of a URI and the path inside it.

    The first use of a bucket checks that it can be opened. Credentials come from the environment of the process.
    """
    if "://" not in uri:
        return LocalFileSystem(), absolute(uri)
    _refuse_secrets(uri)
    scheme, _, path = uri.partition("://")
    try:
        if scheme in _BUCKETS:
            path = path.rstrip("/")
            return _bucket(scheme, path.split("/", 1)[0], path), path
        return FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem" not in str(error):
            raise _refusal(uri, error) from None
    except OSError as error:
        raise _refusal(uri, error) from None
    return _by_fsspec(uri)


def _refuse_secrets(uri: str) -> None:
    scheme, _, path = uri.partition("://")
    user, at, _ = path.partition("/")[0].rpartition("@")
    if "?" in uri or (at and (":" in user or scheme in _NO_ACCOUNTS)):
        shown = f"{scheme}://{path.removeprefix(user + at).split('?')[0]}"
        why = "a URI must not hold options or credentials, because the run folder records it"
        way_out = "Set the environment: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ..."
        raise UserError(f"storage URI '{shown}': {why}. {way_out}")


def _by_fsspec(uri: str) -> tuple[FileSystem, str]:
    """Open a URI that pyarrow does not know. The packages for some schemes are not among ours; the error names them."""
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(uri)
    except Exception as error:  # noqa: BLE001 - each filesystem has its own
        raise _refusal(uri, error) from None
    return PyFileSystem(FSSpecHandler(filesystem)), path


_buckets: dict[str, FileSystem] = {}  # opened by this process; to open one costs requests


def _bucket(scheme: str, name: str, path: str) -> FileSystem:
    root = f"{scheme}://{name}"
    if root not in _buckets:
        filesystem, _ = FileSystem.from_uri(root)
        # Look at the path first: a policy may allow only a prefix of the bucket.
        if filesystem.get_file_info(path).type == FileType.NotFound:
            with suppress(OSError):  # a policy hides the bucket itself
                if filesystem.get_file_info(name).type == FileType.NotFound:
                    raise UserError(f"{root}: there is no such bucket; create it, or correct its name")
        _buckets[root] = filesystem
    return _buckets[root]


def _refusal(uri: str, error: Exception) -> UserError:
    """Return a store's error as a `UserError` that says what to do."""
    for sign, remedy in _REMEDIES.items():
        if sign in str(error):
            return UserError(f"{uri}: {remedy} ({error})")
    return UserError(f"storage URI '{uri}' cannot be opened: {error}")


def find(pattern: str) -> list[FileEntry]:
    """Return the files that a path, folder or glob matches, sorted, without hidden ones (names starting with . or _).

    Folders are searched recursively. Any part of the path may be a glob, as in fsspec: `*` matches inside one folder,
    `**` in all below. A path that exists is taken literally. Returns an empty list if nothing matches.
    """
    from fsspec.utils import glob_translate

    if "://" in pattern and re.search(r"\?[^/]*=", pattern):  # `?` alone is a glob
        _refuse_secrets(pattern)
    signs = "" if pattern.startswith(("http://", "https://")) else "*?["  # no folder can be listed there
    magic = min((pattern.find(c) for c in signs if c in pattern), default=-1)
    start = pattern if magic < 0 else pattern[: pattern.rfind("/", 0, magic) + 1] or "."
    rest = pattern[len(start) if start != "." else 0 :]
    filesystem, path = resolve(start)
    if rest and filesystem.get_file_info(posixpath.join(path, rest.rstrip("/"))).type != FileType.NotFound:
        start, path, rest = join(start, rest.rstrip("/")), posixpath.join(path, rest.rstrip("/")), ""
    info = filesystem.get_file_info(path)
    if info.type == FileType.File:
        return [FileEntry(start, info.size or 0, info.mtime_ns or 0)]
    if info.type == FileType.NotFound:
        return []
    prefix = start[: len(start.rstrip("/")) - len(path.rstrip("/"))] if "://" in start else ""
    try:
        glob = re.compile(glob_translate(rest.rstrip("/")))
    except ValueError as error:
        raise UserError(f"{pattern}: {error}") from None  # ** next to other characters
    files = []
    for entry in filesystem.get_file_info(FileSelector(path, recursive=True)):
        inside = posixpath.relpath(entry.path, path)
        hidden = any(part[0] in "._" for part in inside.split("/"))
        above = itertools.accumulate(inside.split("/"), posixpath.join)  # a glob may match folders
        if entry.type == FileType.File and not hidden and (not rest or any(map(glob.match, above))):
            files.append(FileEntry(prefix + entry.path, entry.size or 0, entry.mtime_ns or 0))
    return sorted(files, key=lambda e: e.uri)


def folders(uri: str) -> list[str]:
    """Return the sorted names of the folders directly in a folder; an empty list if it does not exist."""
    filesystem, path = resolve(uri)
    entries = filesystem.get_file_info(FileSelector(path, allow_not_found=True))
    return sorted(entry.base_name for entry in entries if entry.type == FileType.Directory)


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type != FileType.NotFound


def read_text(uri: str) -> str:
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        return stream.read().decode()


def sha256(uri: str) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path, compression=None, buffer_size=1 << 22) as stream:  # raw, also of .gz
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing: object stores work so, on disks a rename does it."""
    filesystem, path = resolve(uri)
    if not isinstance(filesystem, LocalFileSystem):
        try:
            if uri.partition("://")[0] not in _BUCKETS:  # a bucket needs no folders, and each would be a request
                filesystem.create_dir(posixpath.dirname(path), recursive=True)
            with filesystem.open_output_stream(path) as stream:
                stream.write(content)
        except OSError as error:
            raise _refusal(uri, error) from None
        return
    filesystem.create_dir(posixpath.dirname(path), recursive=True)
    with tempfile.NamedTemporaryFile(dir=posixpath.dirname(path), prefix=".tmp-", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:  # leave no partial file on a full disk
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def write_text(uri: str, text: str) -> None:
    write_bytes(uri, text.encode())


def write_table(uri: str, table: pa.Table) -> None:
    """Write a Parquet file, all or nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(uri, sink.getvalue().to_pybytes())


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Return all Parquet files of a folder as one table; only for small ones (labeled rows, test rows)."""
    files = [resolve(entry.uri) for entry in find(uri)]
    assert files, f"no Parquet files under {uri}"
    return pa.concat_tables(
        pq.read_table(path, filesystem=filesystem, columns=columns, partitioning=None) for filesystem, path in files
    )


def first_rows(uri: str, count: int) -> list[dict[str, Any]]:
    """Return the first rows of a Parquet file, without reading the rest."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_file(path) as file:
        batch = next(pq.ParquetFile(file).iter_batches(batch_size=count), None)
    return [] if batch is None else batch.to_pylist()


def count_rows(uri: str) -> int:
    """Count the rows of all Parquet files of a folder, from their footers."""
    return rows_in(find(uri))


def rows_in(files: Iterable[FileEntry]) -> int:
    """Count the rows of Parquet files, from their footers."""

    def rows(entry: FileEntry) -> int:
        filesystem, path = resolve(entry.uri)
        return int(pq.read_metadata(path, filesystem=filesystem).num_rows)

    with ThreadPoolExecutor(16) as pool:  # there may be thousands, and a bucket takes tens of milliseconds for each
        return sum(pool.map(rows, files))


def delete(uri: str) -> None:
    """Remove a folder and its content, if it exists."""
    filesystem, path = resolve(uri)
    if exists(uri):
        filesystem.delete_dir(path)


def delete_file(uri: str) -> None:
    """Remove a file, if it exists."""
    filesystem, path = resolve(uri)
    if exists(uri):
        filesystem.delete_file(path)


def upload(folder: str, uri: str) -> None:
    """Copy a local folder to a URI."""
    filesystem, path = resolve(uri)
    filesystem.create_dir(path, recursive=True)
    copy_files(folder, path, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem)


def local_copy(uri: str) -> str:
    """Return a local folder with the files of `uri`: the folder itself if it is local, else a download, once per node.

    Names, sizes and times of the files are the key of the copy, so a changed source is downloaded again.
    """
    from filelock import FileLock

    filesystem, path = resolve(uri)
    if isinstance(filesystem, LocalFileSystem):
        return path
    files = find(uri)
    key = hashlib.sha256(repr(files).encode()).hexdigest()[:24]
    target = Path(tempfile.gettempdir()) / f"semievol-cache-{os.getuid()}" / key
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()  # copy_files would not make a folder without subfolders
            copy_files(path, str(partial), source_filesystem=filesystem, destination_filesystem=LocalFileSystem())
            partial.rename(target)
    return str(target)

"""Find the data files that a config names: paths, folders, globs and URIs, folders of `datasets`, and data sets on a hub."""

from __future__ import annotations

import json
import posixpath
import re

from semievol.data import storage
from semievol.data.storage import FileEntry
from semievol.errors import UserError

_HUB = re.compile(r"hf://datasets/(?P<id>[^/@]+/[^/@]+)(@(?P<revision>refs/(convert|pr)/[^/]+|[^/]+))?(?P<inside>/.*)?")

# Never the data of a folder, unless it is named by itself.
_BESIDE = re.compile(
    r"(readme|licen[cs]e|changelog|citation|contributing)(\.(md|txt|rst|cff|html))?|thumbs\.db|desktop\.ini|~\$.*|#.*#|.*~"
    r"|.*\.(crc|md5|sha256|lock|tmp|bak|swp|md|py|ipynb|log)|(.*_)?_?success|dataset_infos?\.json|datapackage\.json",
    re.IGNORECASE,
)

_NO_SUCH = "has no subset or split"


def find(pattern: str) -> list[FileEntry]:
    """Return the files that a key of the config means, sorted; an empty list if there is none.

    `hf://datasets/OWNER/NAME[@REVISION][/SUBSET][/SPLIT]` is a split of a data set on the Hugging Face hub;
    `hf://datasets/OWNER/NAME[@REVISION]/PATH` is a file or folder in its repository.
    """
    if pattern.startswith("hf://"):
        return _on_hub(pattern)
    return _saved(pattern, storage.find(pattern))


def _saved(pattern: str, files: list[FileEntry]) -> list[FileEntry]:
    """Leave out what stands beside the data: readme files, those of systems and editors, and what `datasets` saves."""
    names = {file.uri for file in files}
    for file in files:
        folder, name = posixpath.split(file.uri)
        if name == "dataset_dict.json":
            splits = json.loads(storage.read_text(file.uri)).get("splits", [])
            ways = ", ".join(storage.join(pattern, split) for split in splits)
            raise UserError(f"{folder} holds several splits of a DatasetDict. Name one of them: {ways}")
        if name == "state.json" and storage.join(folder, "dataset_info.json") in names:
            parts = json.loads(storage.read_text(file.uri)).get("_data_files", [])
            kept = {storage.join(folder, part["filename"]) for part in parts}
            files = [each for each in files if posixpath.dirname(each.uri) != folder or each.uri in kept]
    return [file for file in files if file.uri == pattern or not _BESIDE.fullmatch(posixpath.basename(file.uri))]


def _on_hub(uri: str) -> list[FileEntry]:
    found = _HUB.fullmatch(uri.rstrip("/"))
    if not found:
        raise UserError(
            f"{uri}: write hf://datasets/OWNER/NAME[@REVISION][/SUBSET][/SPLIT], or the path of a file in it"
        )
    inside = (found["inside"] or "").strip("/")
    try:
        # A folder that is named like a subset may hold all of its splits: the names of subsets and splits come first.
        if re.search(r"[.*?\[]", inside.rpartition("/")[2]) and (files := storage.find(uri)):
            return files
        return [file for each in _split(uri, found["id"], found["revision"], inside) for file in storage.find(each)]
    except UserError as error:
        if _NO_SUCH in str(error) and (files := storage.find(uri)):
            return _saved(uri, files)
        if "cannot be opened" not in str(error):
            raise
        problem: Exception = error
    except Exception as error:  # noqa: BLE001 - of httpx, huggingface_hub, datasets
        problem = error
    offline = f"hf download {found['id']} --repo-type dataset --local-dir FOLDER"
    way_out = (
        f"A private or gated data set needs HF_TOKEN. Without a network, run `{offline}` elsewhere, and give the folder"
    )
    raise UserError(
        f"{uri}: the hub does not return it: {' '.join(str(problem).split())[:400].rstrip('.')}. {way_out}"
    ) from problem


def _split(uri: str, name: str, revision: str | None, inside: str) -> list[str]:
    """Return the URIs of a split's files, at the commit that is current."""
    from datasets import get_dataset_config_names, load_dataset_builder

    subsets = get_dataset_config_names(name, revision=revision)
    first, *rest = inside.split("/") if inside else [""]
    subset = first if first in subsets else None
    wanted = rest if subset else [part for part in (first, *rest) if part]
    if subset is None and len(subsets) > 1 and "default" not in subsets:
        raise UserError(f"{uri}: name one of its subsets: {', '.join(f'.../{each}' for each in subsets)}")
    splits = load_dataset_builder(name, subset, revision=revision).config.data_files or {}
    if len(wanted) > 1 or (wanted and wanted[0] not in splits):
        raise UserError(
            f"{uri}: {_NO_SUCH} '{'/'.join(wanted)}'; subsets: {', '.join(subsets)}; splits: {', '.join(splits)}"
        )
    if not wanted and len(splits) != 1:
        raise UserError(f"{uri}: name one of its splits: {', '.join(f'.../{each}' for each in splits)}")
    return list(splits[wanted[0] if wanted else next(iter(splits))])

"""Prepare the demo: data set, base model and config, and explain them to the user."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from semievol.data import storage
from semievol.demo.base_model import build_base_model
from semievol.demo.data import write_dataset

_CONFIG = Path(__file__).with_name("demo.yaml")
_INTRODUCTION = """\
SemiEvol demo: route support tickets to one of six queues. Everything is real (Ray, vLLM, DeepSpeed, FAISS) but small.
It takes about 8 minutes on two cores and needs no network.

 1. data   {labeled} labeled, {unlabeled:,} unlabeled and {test} test tickets: synthetic, with typos, duplicates and a few
           broken rows. Labeled and unlabeled tickets have different class balances.
 2. base   a Llama of a million parameters, pretrained now; it knows the words, but not the task.
 3. run    warm up on the labeled tickets, let the warm model and the nearest labeled tickets answer every unlabeled one,
           keep the confident answers, and fine-tune on them. Compare `evolved` with `warm` in the last table.
"""


def prepare(folder: str, *, seed: int, echo: Callable[[str], None]) -> tuple[str, list[str]]:
    """Make the demo's data and base model if they are missing; return the path of the config and its overrides.

    Args:
        folder: a local folder or a URI.
    """
    root = storage.join(storage.absolute(folder), f"seed-{seed}")
    with tempfile.TemporaryDirectory() as scratch:
        counts = write_dataset(Path(scratch) / "data", seed=seed)
        _keep(scratch, root, "data")
        echo(_INTRODUCTION.format(**counts))
        if _is_kept(root, "base"):
            echo(f"base model: already in {root}/base")
        else:
            build_base_model(Path(scratch) / "base", seed=seed, log=echo)
            _keep(scratch, root, "base")
    overrides = [
        f"storage={root}",
        f"seed={seed}",
        f"data.labeled={root}/data/labeled.jsonl",
        f"data.unlabeled={root}/data/unlabeled",
        f"data.test={root}/data/test.jsonl",
        f"model.base={root}/base",
    ]
    return str(_CONFIG), overrides


def _is_kept(root: str, part: str) -> bool:
    return storage.exists(storage.join(root, f"{part}.complete"))


def _keep(scratch: str, root: str, part: str) -> None:
    """Copy a part to the demo's folder, unless it is there already."""
    if not _is_kept(root, part):
        storage.upload(f"{scratch}/{part}", storage.join(root, part))
        storage.write_text(storage.join(root, f"{part}.complete"), "")  # last, so that an interrupted copy is repeated

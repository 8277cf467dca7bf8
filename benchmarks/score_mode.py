"""`label.mode: score` against sampling: do they answer the same, and how many rows a second does either take?

    python -m benchmarks.score_mode --model runs/fpb/round-0/warmup/model

Both answer the unlabeled rows of Financial PhraseBank in one engine, in turns: `score` is one prefill a row, `sampled`
the majority of four responses at temperature 1. A row is confident where the scored answer has at least 0.9 of the
probability. Prints one JSON object as its last line; speeds are medians over the repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from semievol.config import Columns, EngineConfig
from semievol.data.tables import validate
from semievol.engines import Engine, load
from semievol.method.prompts import Prompts
from semievol.tasks import Row
from semievol.tasks.multiple_choice import MultipleChoice

SHARED = Path(__file__).parents[2] / "shared"
TASK = MultipleChoice()
SAMPLES, CONFIDENT = 4, 0.9


async def score(engine: Engine, row: Row) -> tuple[str, float]:
    """The likeliest answer and its share."""
    choices = TASK.choices(row) or []
    shares = await engine.score(Prompts(TASK).messages(row), [TASK.respond(choice) for choice in choices])
    return max(zip(choices, shares, strict=True), key=lambda pair: pair[1])


async def sampled(engine: Engine, row: Row) -> tuple[str, float]:
    """The majority's answer ("" where none can be parsed) and its share."""
    done = await engine.generate(Prompts(TASK).messages(row), temperature=1.0, seed=0, max_tokens=16, n=SAMPLES)
    answers = [TASK.parse(one.text, row) or "" for one in done]
    answer = max(dict.fromkeys(answers), key=answers.count)
    return answer, answers.count(answer) / SAMPLES


Ask = Callable[[Engine, Row], Awaitable[tuple[str, float]]]


async def timed(engine: Engine, rows: list[Row], ask: Ask) -> tuple[list[tuple[str, float]], float]:
    started = time.perf_counter()
    answers = await asyncio.gather(*(ask(engine, row) for row in rows))
    return list(answers), len(rows) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(SHARED / "models" / "tiny-lm"), help="best a warm one")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with (SHARED / "data" / "fpb" / "unlabeled.csv").open(newline="") as file:
        raw = list(csv.DictReader(file))[: options.rows]
    rows = [validate(record, Columns(), TASK, answer_column=None, max_bytes=10**6) for record in raw]
    engine = load(options.model, EngineConfig())
    for ask in (score, sampled):  # a warm-up of each
        asyncio.run(timed(engine, rows[:50], ask))
    speeds: dict[Ask, list[float]] = {score: [], sampled: []}
    answers = {}
    for _ in range(options.repeats):
        for ask in (score, sampled):
            answers[ask], speed = asyncio.run(timed(engine, rows, ask))
            speeds[ask].append(speed)
    pairs = list(zip(answers[score], answers[sampled], strict=True))
    confident = [a == b for (a, share), (b, _) in pairs if share >= CONFIDENT]
    median = {ask: statistics.median(speeds[ask]) for ask in speeds}
    figures = {
        "rows": len(rows),
        "same_answer": round(sum(a == b for (a, _), (b, _) in pairs) / len(pairs), 4),
        "confident_rows": len(confident),
        "same_answer_confident": round(sum(confident) / max(len(confident), 1), 4),
        "score_rows_per_s": round(median[score], 1),
        "sampled_rows_per_s": round(median[sampled], 1),
        "score_over_sampled": round(median[score] / median[sampled], 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

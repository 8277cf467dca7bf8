"""Scores over large label sets: how many requests does a row take, and how much faster is that than a request for each label?

    python -m benchmarks.label_sets

77           the categories of banking77, and prompts that list them, as those of a classification task do
77 unlisted  the same with short prompts, which leave little to share
1000         "CATEGORY, WORD", where WORD is one of the 12 most frequent first words of the questions, or "other"; unlisted
1000 shown   the same behind three solved examples, as those of a collaborator with k = 3

Two models are asked: the small one as it is, and one trained on these tasks for minutes, as after a warm-up.

requests_per_row     of `Engine.score`
vs_each_label        rows/s over the peer: one request for each label to the same engine, the label appended to the prompt's
                     tokens, with `prompt_logprobs`
largest_difference   between the probabilities of both
right                rows whose likeliest label is the right one
untrained            the same figures for the model as it is

Each model has a process of its own, which asks in turns; speeds are medians over the repeats. Prints one JSON object as its
last line.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from semievol.config import EngineConfig
from semievol.engines import load
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.vllm import VLLMEngine
from semievol.method.prompts import Messages

SHARED = Path(__file__).parents[2] / "shared"
ROWS = {
    "77": (24, 2),
    "77 unlisted": (24, 6),
    "1000": (24, 2),
    "1000 shown": (24, 1),
}  # of a repeat: for us, for the peer
BATCH = {"77": 2, "77 unlisted": 16, "1000": 16, "1000 shown": 8}  # rows of a training step

Task = list[tuple[Messages, str]]  # prompts with their labels


def tasks(split: str) -> dict[str, tuple[Task, list[str]]]:
    """Return the tasks, each with its labels."""
    rows = {name: read(name) for name in ("train", split)}
    first = Counter(text.split()[0].lower() for text, _ in rows["train"])
    words = [*(word for word, _ in first.most_common(12)), "other"]
    categories = sorted({category for _, category in rows["train"]})
    pairs = [f"{category}, {word}" for category in categories for word in words][:1000]

    def task(question: str, label: Callable[[str, str], str]) -> Task:
        asked = ([{"role": "user", "content": f"{text}\n{question}"}] for text, _ in rows[split])
        return [(prompt, label(*row)) for prompt, row in zip(asked, rows[split], strict=True)]

    def with_word(text: str, category: str) -> str:
        word = text.split()[0].lower()
        return f"{category}, {word if word in words else 'other'}"

    listed = "Which category?\n" + "\n".join(categories)
    return {
        "77": (task(listed, lambda _, category: category), categories),
        "77 unlisted": (task("Category?", lambda _, category: category), categories),
        "1000": (task("Category, word?", with_word), pairs),
        "1000 shown": (behind_examples(task("Category, word?", with_word)), pairs),
    }


def behind_examples(task: Task) -> Task:
    """Return the prompts, each behind three other rows with their labels."""
    rng, shown = random.Random(2), []
    for prompt, label in task:
        others = [other for other in rng.sample(task, 4) if other[0] is not prompt][:3]
        solved = [f"{asked[-1]['content'].rpartition(chr(10))[0]}\n{answer}" for asked, answer in others]
        text = "\n\n".join(["Here are solved examples.", *solved])
        shown.append(([{"role": "system", "content": text}, *prompt], label))
    return shown


def read(split: str) -> list[tuple[str, str]]:
    with (SHARED / "data" / "banking77" / f"{split}.csv").open(newline="") as file:
        rows = [(record["text"].strip(), record["category"].replace("_", " ")) for record in csv.DictReader(file)]
    random.Random(0).shuffle(rows)
    return rows


def train(model: str, out: Path, steps: int) -> None:
    """Fine-tune on the tasks in turns, all weights, at a falling learning rate."""
    import torch
    from transformers import AutoModelForCausalLM

    template = ChatTemplate(load_tokenizer(model))
    batches = [
        task[step * BATCH[name] : (step + 1) * BATCH[name]]
        for name, (task, _) in tasks("train").items()
        for step in range(steps // len(BATCH))
    ]
    random.Random(1).shuffle(batches)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 1.02 - step / steps))
    for step, pairs in enumerate(batches):
        batch = [template.exchange(prompt, [{"role": "assistant", "content": label}]) for prompt, label in pairs]
        longest = max(len(row["input_ids"]) for row in batch)
        ids, labels = (
            torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in batch])
            for name, fill in (("input_ids", 0), ("labels", -100))
        )
        loss = net(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.2f}", flush=True)
    net.save_pretrained(out)
    template._tokenizer.save_pretrained(out)


async def each_label(engine: VLLMEngine, prompt: Messages, labels: list[str]) -> list[float]:
    """The peer: a request for each label, with the log-probabilities of its tokens."""
    asked = await engine._batches.tokenize(prompt)
    tokens = [engine.tokenizer.encode(label, add_special_tokens=False) for label in labels]
    requests = (
        engine._request(asked + ids, 1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True) for ids in tokens
    )
    done = await asyncio.gather(*requests)
    logs = np.array([sum(one.prompt_logprobs.logprobs[-len(ids) :]) for one, ids in zip(done, tokens, strict=True)])
    shares = np.exp(logs - logs.max())
    return list(shares / shares.sum())


async def ours(engine: VLLMEngine, prompt: Messages, labels: list[str]) -> list[float]:
    return await engine.score(prompt, labels)


Ask = Callable[[VLLMEngine, Messages, list[str]], Awaitable[list[float]]]


def timed(engine: VLLMEngine, how: Ask, task: Task, labels: list[str]) -> tuple[list[list[float]], float]:
    """Ask about all rows at once. Return the scores and rows/s."""

    async def together() -> list[list[float]]:
        return await asyncio.gather(*(how(engine, prompt, labels) for prompt, _ in task))

    started = time.perf_counter()
    scores = asyncio.run(together())
    return scores, len(task) / (time.perf_counter() - started)


def measure(model: str, repeats: int) -> dict[str, dict[str, float]]:
    engine = load(model, EngineConfig(dtype="float32"))
    assert isinstance(engine, VLLMEngine)
    figures: dict[str, dict[str, float]] = {}
    for name, (task, labels) in tasks("test").items():
        many, few = ROWS[name]
        timed(engine, ours, task[-4:], labels), timed(engine, each_label, task[-1:], labels)  # a warm-up of each
        before, speeds, right = engine.figures, [], 0
        differences = []
        for repeat in range(repeats):
            rows = task[repeat * many : (repeat + 1) * many]  # others each time, for the prefix cache
            scores, fast = timed(engine, ours, rows, labels)
            peers, slow = timed(engine, each_label, rows[:few], labels)
            speeds.append((fast, slow))
            right += sum(labels[int(np.argmax(row))] == label for row, (_, label) in zip(scores, rows, strict=True))
            differences += [float(np.abs(np.subtract(a, b)).max()) for a, b in zip(scores, peers, strict=False)]
        rows_scored, requests = (engine.figures[count] - before[count] for count in ("scored_rows", "score_requests"))
        seen = {
            "requests_per_row": round(requests / rows_scored, 1),
            "vs_each_label": round(statistics.median(fast / slow for fast, slow in speeds), 1),
            "rows_per_s": round(statistics.median(fast for fast, _ in speeds), 2),
            "each_label_rows_per_s": round(statistics.median(slow for _, slow in speeds), 3),
            "largest_difference": round(max(differences), 6),
            "right": round(right / rows_scored, 3),
        }
        for figure, value in seen.items():
            figures.setdefault(figure, {})[name] = value
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(SHARED / "models" / "tiny-lm"))
    parser.add_argument(
        "--steps", type=int, default=1200, help="of training; after 450 a fifth of the answers are right"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="measure this model alone, as the processes that this one starts do")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.repeats)))
        return
    with tempfile.TemporaryDirectory() as folder:
        train(options.model, Path(folder), options.steps)
        trained, untrained = (in_process(model, options.repeats) for model in (folder, options.model))
    print(json.dumps(trained | {"untrained": untrained}))


def in_process(model: str, repeats: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.label_sets", "--only", model, "--repeats", str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({model: figures}), flush=True)
    return figures


if __name__ == "__main__":
    main()

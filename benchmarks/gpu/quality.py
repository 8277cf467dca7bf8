"""Compare methods with SmolLM2-135M on one GPU in minutes, many trainings side by side (`benchmarks.gpu.many`).

    python -m benchmarks.gpu.quality MODEL.gguf ROWS.json.gz OUT [--seconds 480]

ROWS is what `benchmarks.gpu.prepare` writes. Settings of the warm-up are chosen by the folds: the accuracy of each member on
the labeled rows that it has left out, over all data sets. Test rows decide nothing.

sft            one training on the labeled rows
sft_long       the same for as many steps as a student takes
single_hard    the paper's way: the surest 60 % of what one warm model says, as certain
committee      the mean of four members, each warmed up without a fold, with a seed and a wording of its own
hard, surest   students of the committee: its likeliest labels as certain, and its distributions for the surest 60 %
semievol       its student: its distributions, for all unlabeled rows
oracle         a student of the true labels

Writes OUT/results.json (a line a method) and OUT/*.npz (all distributions, for `benchmarks` that need no GPU), and prints one
JSON object as its last line: mean accuracies over the splits.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.many import Adapters, Example, Job, Llama, Settings, likelihoods, train

LONGEST = 128  # tokens of a prompt; longer rows are left out
MEMBERS = 4
SIDE_BY_SIDE = 120  # jobs
TEST, UNLABELED = {"fpb": 1000, "trec": 1200}, 1200
BUDGETS = {"fpb": (64, 128, 256, 452), "trec": (64, 128, 256, 500)}
PASSES = 3  # of a student over all rows
GRID = [(rate, epochs) for rate in (3e-4, 1e-3, 2e-3) for epochs in (10, 20, 40)]


class Data:
    """A data set as tokens."""

    def __init__(self, name: str, given: dict[str, Any]) -> None:
        self.name, self.labels, self.responses, self.end = name, given["labels"], given["responses"], given["end"]
        self.prompts: dict[str, list[list[int]]] = given["prompts"]
        self.styles = list(self.prompts)
        fits = [all(len(of[i]) <= LONGEST for of in self.prompts.values()) for i in range(len(given["gold"]))]
        self.rows = np.flatnonzero(fits)
        self.gold = np.array(given["gold"])

    def split(self, seed: int, budget: int) -> dict[str, np.ndarray]:
        """Return row numbers: test rows are those of the seed alone, and labeled rows of a budget hold those of a lower one."""
        order = np.random.default_rng([seed, 7]).permutation(self.rows)
        test, rest = order[: TEST[self.name]], order[TEST[self.name] :]
        return {"test": test, "labeled": rest[:budget], "unlabeled": rest[budget : budget + UNLABELED]}

    def hard(self, row: int, label: int, style: str = "plain") -> Example:
        said = [*self.responses[label], self.end]
        return Example(self.prompts[style][row] + said, [{token: 1.0} for token in said])

    def soft(self, row: int, shares: np.ndarray) -> Example:
        """Return the row with a distribution over labels as its target, along the path of the likeliest."""
        path, targets = self.responses[int(shares.argmax())], []
        for depth in range(len(path)):
            at: dict[int, float] = defaultdict(float)
            for response, share in zip(self.responses, shares, strict=True):
                if response[:depth] == path[:depth] and len(response) > depth:
                    at[response[depth]] += float(share)
            targets.append(dict(at))
        targets.append({self.end: float(shares.max())})
        return Example([*self.prompts["plain"][row], *path, self.end], targets)

    def folds(self, rows: np.ndarray) -> np.ndarray:
        """Return the fold of each labeled row, stratified by label."""
        place = np.zeros(len(rows), dtype=int)
        order = np.argsort(self.gold[rows], kind="stable")
        place[order] = np.arange(len(rows)) % MEMBERS
        return place


class Study:
    def __init__(self, model: Llama, sets: list[Data], out: Path, seconds: float, whole: bool) -> None:
        self.model, self.sets, self.out, self.until = model, sets, out, time.monotonic() + seconds
        self.whole = whole
        self.results: list[dict[str, Any]] = []
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def trained(self, jobs: Sequence[Job]) -> list[Adapters]:
        """Train all, those of similar length side by side."""
        found: dict[int, Adapters] = {}
        order = sorted(range(len(jobs)), key=lambda number: jobs[number].steps)
        while order:
            group = [n for n in order[:SIDE_BY_SIDE] if jobs[n].steps <= 1.4 * jobs[order[0]].steps]
            adapters, losses = train(self.model, [jobs[n] for n in group], Settings())
            found |= {n: adapters.only(place) for place, n in enumerate(group)}
            order = [n for n in order if n not in group]
            ends = [losses[jobs[n].steps - 5 : jobs[n].steps, place].mean() for place, n in enumerate(group)]
            self.say(f"{len(group)} trainings of {jobs[group[0]].steps} steps, last losses {np.mean(ends):.3f}")
        return [found[n] for n in range(len(jobs))]

    def shares(self, data: Data, adapters: Adapters | None, rows: np.ndarray, style: str = "plain") -> np.ndarray:
        return likelihoods(self.model, adapters, [data.prompts[style][i] for i in rows], data.responses)

    def members(self, data: Data, labeled: np.ndarray, seed: int, steps: int, rate: float) -> list[Job]:
        folds = data.folds(labeled)
        return [
            Job(
                [data.hard(i, data.gold[i], data.styles[m]) for i in labeled[(folds != m) | self.whole]],
                100 * seed + m,
                steps,
                rate,
            )
            for m in range(MEMBERS)
        ]

    def grid(self, budget: int, grid: list[tuple[float, float]]) -> dict[tuple[float, float], float]:
        """Return the accuracy of members on their folds for each learning rate and number of epochs."""
        right: dict[tuple[float, float], list[float]] = defaultdict(list)
        for data in self.sets:
            cases = [(rate, epochs, seed) for rate, epochs in grid for seed in (0, 1)]
            jobs = []
            for rate, epochs, seed in cases:
                labeled = data.split(seed, budget)["labeled"]
                steps = round(budget * (1 - 1 / MEMBERS) / 8 * epochs)
                jobs += self.members(data, labeled, seed, steps, rate)
            done = self.trained(jobs)
            for number, (rate, epochs, seed) in enumerate(cases):
                labeled = data.split(seed, budget)["labeled"]
                folds = data.folds(labeled)
                for m in range(MEMBERS):
                    rows = labeled[folds == m]
                    shares = self.shares(data, done[number * MEMBERS + m], rows, data.styles[m])
                    right[rate, epochs] += list(shares.argmax(1) == data.gold[rows])
                    self.keep(data, f"grid_{rate:g}_{epochs:g}", seed, budget, fold_nll=nll(shares, data.gold[rows]))
        return {case: float(np.mean(of)) for case, of in right.items()}

    def keep(self, data: Data, method: str, seed: int, budget: int, **figures: Any) -> None:
        self.results.append({"data": data.name, "budget": budget, "split": seed, "method": method, **figures})
        (self.out / "results.json").write_text("\n".join(map(json.dumps, self.results)))

    def compare(self, place: int, seeds: Sequence[int], rate: float, epochs: float) -> None:
        """Run all methods on all data sets, at one budget of each, at some splits."""
        cells = [(data, BUDGETS[data.name][place], seed) for data in self.sets for seed in seeds]
        warm, lengths = list[Job](), list[int]()
        for data, budget, seed in cells:
            labeled = data.split(seed, budget)["labeled"]
            lengths.append(round(budget / 8 * epochs))
            warm += self.members(data, labeled, seed, round(lengths[-1] * (1 if self.whole else 1 - 1 / MEMBERS)), rate)
            warm.append(Job([data.hard(i, data.gold[i]) for i in labeled], 100 * seed + 50, lengths[-1], rate))
        done, jobs = self.trained(warm), list[tuple[Data, int, int, str, Job]]()
        for number, (data, budget, seed) in enumerate(cells):
            *mine, single = done[number * (MEMBERS + 1) : (number + 1) * (MEMBERS + 1)]
            pool, alone = self.ask(data, budget, seed, mine, single, lengths[number])
            cell = data.split(seed, budget)
            length = -(-(len(cell["labeled"]) + len(cell["unlabeled"])) * PASSES // 8)
            labeled = warm[number * (MEMBERS + 1) + MEMBERS].examples
            for method, rows in self.targets(data, cell, pool, alone).items():
                jobs.append((data, budget, seed, method, Job(labeled + rows, 100 * seed + 60, length, rate)))
        self.say(f"asked: {self.means()}")
        for (data, budget, seed, method, job), one in zip(jobs, self.trained([job for *_, job in jobs]), strict=True):
            cell = data.split(seed, budget)
            self.accuracy(data, method, seed, budget, self.shares(data, one, cell["test"]), cell, steps=job.steps)

    def ask(
        self, data: Data, budget: int, seed: int, members: list[Adapters], single: Adapters, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Let the warm models answer, and return the committee's and the single one's distributions on the unlabeled rows."""
        cell = data.split(seed, budget)
        given = {
            part: np.stack(
                [self.shares(data, one, cell[part], style) for one, style in zip(members, data.styles, strict=False)]
            )
            for part in ("unlabeled", "test", "labeled")
        }
        alone = {part: self.shares(data, single, cell[part]) for part in ("unlabeled", "test")}
        each = [accuracy(of, data.gold[cell["test"]]) for of in given["test"]]
        self.accuracy(data, "sft", seed, budget, alone["test"], cell, steps=steps)
        self.accuracy(data, "committee", seed, budget, given["test"].mean(0), cell, members=each)
        folds = data.folds(cell["labeled"])
        np.savez_compressed(
            self.out / f"{data.name}_{budget}_{seed}.npz",
            **{f"members_{part}": of.astype(np.float16) for part, of in given.items()},
            **{f"single_{part}": of.astype(np.float16) for part, of in alone.items()},
            **cell,
            folds=folds,
        )
        own, pool = given["labeled"][folds, np.arange(len(folds))], given["unlabeled"].mean(0)
        truth = data.gold[cell["unlabeled"]]
        right = {"committee": accuracy(pool, truth), "single": accuracy(alone["unlabeled"], truth)}
        self.keep(data, "labels", seed, budget, folds=accuracy(own, data.gold[cell["labeled"]]), **right)
        return pool, alone["unlabeled"]

    def targets(self, data: Data, cell: dict[str, np.ndarray], pool: np.ndarray, alone: np.ndarray) -> dict[str, Any]:
        """Return the pseudo-labeled rows of each student."""
        rows, truth = cell["unlabeled"], data.gold[cell["unlabeled"]]

        def surest(shares: np.ndarray) -> np.ndarray:
            entropy = -(shares * np.log(shares.clip(1e-12))).sum(1)
            return np.argsort(entropy)[: round(0.6 * len(rows))]

        return {
            "sft_long": [],
            "single_hard": [data.hard(rows[i], int(alone[i].argmax())) for i in surest(alone)],
            "hard": [data.hard(row, int(shares.argmax())) for row, shares in zip(rows, pool, strict=True)],
            "surest": [data.soft(rows[i], pool[i]) for i in surest(pool)],
            "semievol": [data.soft(row, shares) for row, shares in zip(rows, pool, strict=True)],
            "oracle": [data.hard(row, int(label)) for row, label in zip(rows, truth, strict=True)],
        }

    def accuracy(
        self, data: Data, method: str, seed: int, budget: int, shares: np.ndarray, cell: dict[str, Any], **more: Any
    ) -> None:
        gold = data.gold[cell["test"]]
        right = "".join(map(str, (shares.argmax(1) == gold).astype(int)))
        self.keep(
            data, method, seed, budget, accuracy=accuracy(shares, gold), nll=nll(shares, gold), right=right, **more
        )

    def means(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for result in self.results:
            if "accuracy" in result:
                of = found.setdefault(result["data"], {}).setdefault(str(result["budget"]), {})
                of.setdefault(result["method"], []).append(result["accuracy"])
        return {
            name: {budget: {m: round(float(np.mean(a)), 4) for m, a in of.items()} for budget, of in budgets.items()}
            for name, budgets in found.items()
        }


def accuracy(shares: np.ndarray, gold: np.ndarray) -> float:
    return round(float((shares.argmax(1) == gold).mean()), 4)


def nll(shares: np.ndarray, gold: np.ndarray) -> float:
    return round(float(-np.log(shares[np.arange(len(gold)), gold].clip(1e-12)).mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=480, help="begin nothing after these")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument(
        "--settings", nargs=3, type=float, help="learning rate, epochs at 64 and at 256 rows; skip the grid"
    )
    parser.add_argument("--budgets", nargs="*", type=int)
    parser.add_argument("--whole", action="store_true", help="members learn all labeled rows: what a fold costs")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    torch.manual_seed(0)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    model = Llama.from_gguf(options.model, options.device, dtype)
    with gzip.open(options.rows, "rt") as file:
        sets = [Data(name, given) for name, given in json.load(file).items()]
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(model, sets, options.out, options.seconds, options.whole)
    study.say(f"rows: { {data.name: (len(data.rows), len(data.gold)) for data in sets} }")
    for data in sets:
        cell = data.split(0, 64)
        study.accuracy(data, "base", 0, 0, study.shares(data, None, cell["test"]), cell)
    study.say(f"base: {study.means()}")
    if options.settings:
        rate, few, many = options.settings
    else:
        found = study.grid(64, GRID)
        rate, few = max(found, key=found.__getitem__)
        study.say(f"accuracy on the folds with 64 rows: {found}")
        found = study.grid(256, [(rate, epochs) for epochs in (5, 10, 20)])
        _, many = max(found, key=found.__getitem__)
        study.say(f"accuracy on the folds with 256 rows: {found}")
    for place, budget in enumerate((64, 128, 256, 500)):
        if time.monotonic() > study.until or (options.budgets and budget not in options.budgets):
            continue
        epochs = few if budget == 64 else many if budget >= 256 else (few * many) ** 0.5
        study.compare(place, range(options.splits), rate, epochs)
        study.say(str(study.means()))
    print(json.dumps({"model": "smollm2-135m", "splits": options.splits, **study.means()}))


if __name__ == "__main__":
    main()

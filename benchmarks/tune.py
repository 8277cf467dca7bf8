"""Choose settings on labeled rows alone: the whole loop, with a part of the labeled rows held out as the test set.

    python -m benchmarks.tune configs/fpb.yaml --candidate select.per=all --candidate select.per=answer

The protocol: the labeled rows are cut into folds once; for each fold every candidate is trained on the others (and all
unlabeled rows, without their answers) and judged on that fold, so that each labeled row is answered once, by a model that
did not see it. The test set and the oracle are never read. Stages that are equal are run once, and what is done is skipped.
Prints one JSON object as its last line: for each candidate, and SFT (the warm model), the accuracy over all folds and of each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shlex
import sys
from operator import mul
from pathlib import Path
from typing import Any

from semievol import config
from semievol.data import readers, storage
from semievol.errors import UserError
from semievol.studies import study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="of a run, YAML")
    parser.add_argument(
        "--candidate", action="append", required=True, metavar="'KEY=VALUE ...'", help="overrides to be judged; repeat"
    )
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--storage", default="runs/tune", help="a local folder")
    options = parser.parse_args()
    try:
        results = [judge(options, fold) for fold in range(options.folds)]
    except UserError as error:
        sys.exit(f"tune: {error}")
    print(json.dumps(summary(results)))


def judge(options: argparse.Namespace, fold: int) -> dict[str, Any]:
    """The figures of a study of all candidates at one fold."""
    files = storage.find(config.load(options.config, []).data.labeled)
    source = hashlib.sha256(repr(files).encode()).hexdigest()[:8]
    folder = Path(options.storage).absolute() / f"{source}-{fold}-of-{options.folds}"
    cut(files, folder, fold, options.folds)
    candidates = {
        f"candidate-{i}": study.Method(overrides=shlex.split(text)) for i, text in enumerate(options.candidate)
    }
    one = study.StudyConfig(
        name="study",
        storage=str(folder),
        config=options.config,
        overrides=[
            f"data.labeled={folder}/labeled.jsonl",
            f"data.test={folder}/held-out.jsonl",
            "data.columns.oracle=null",
        ],
        seeds=[fold],
        methods={"sft": study.Method(until="evaluate/warm", report="warm"), **candidates},
        compare_to="sft",
    )
    methods: dict[str, Any] = study.run(one, lambda line: print(f"fold {fold}: {line}", flush=True))["methods"]
    rows = sum(1 for _ in (folder / "held-out.jsonl").open())
    names = ["sft", *options.candidate]
    return {name: (figure["mean"], rows) for name, figure in zip(names, methods.values(), strict=True)}


def cut(files: list[storage.FileEntry], folder: Path, fold: int, folds: int) -> None:
    """Write every `folds`-th labeled row, in an order drawn once, as held out, and the others as labeled."""
    if (folder / "labeled.jsonl").exists():
        return  # as new files they would be another data set, and all be run again
    rows = [row for file in files for _, row in readers.read(file.uri) if not isinstance(row, readers.Broken)]
    random.Random(0).shuffle(rows)
    parts: dict[str, list[Any]] = {"held-out": [], "labeled": []}
    for number, row in enumerate(rows):
        parts["held-out" if number % folds == fold else "labeled"].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():  # "labeled" last
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def summary(results: list[dict[str, tuple[float, int]]]) -> dict[str, Any]:
    rows = [rows for _, rows in (fold["sft"] for fold in results)]
    by_fold = {name: [fold[name][0] for fold in results] for name in results[0]}
    figures = {
        name: {"accuracy": round(sum(map(mul, accuracies, rows)) / sum(rows), 4), "by_fold": accuracies}
        for name, accuracies in by_fold.items()
    }
    return {"rows": rows, "candidates": figures}


if __name__ == "__main__":
    main()

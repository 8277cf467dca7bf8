"""What a few labels and many texts bring with a small real model, SmolLM2-135M: methods, label budgets and splits.

    make bench-quality                                          # everything: hours on two cores
    python -m benchmarks.quality --data trec --budgets 64 --splits 1

Runs the study configs/studies/few_labels.yaml on FPB and TREC as `benchmarks.texts` splits them; a split is also the seed. What is
done is skipped, so it may be cut off at any time. Prints one JSON object as its last line: for each data set and budget the mean
test accuracy of each method, McNemar's p-value of `semievol` against `sft_long`, pooled over the splits, and the share of the gap
between `sft_long` and `oracle` that `semievol` closes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import texts
from semievol.errors import UserError
from semievol.reports import study as study_report
from semievol.studies import study

STUDY = Path(__file__).parents[1] / "configs" / "studies" / "few_labels.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=texts.SETS, default=texts.SETS)
    parser.add_argument("--budgets", nargs="+", type=int, help="labels; default: 64, 128, 256, and 452 or 500")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--storage", default="runs/quality")
    parser.add_argument("overrides", nargs="*", help="of the study, KEY=VALUE")
    options = parser.parse_args()
    found: dict[str, Any] = {"model": "smollm2-135m", "splits": options.splits}
    try:
        for name in options.data:
            for budget in options.budgets or texts.BUDGETS[name]:
                found.setdefault(name, {})[str(budget)] = measure(name, budget, options)
    except UserError as error:
        sys.exit(f"bench-quality: {error}")
    print(json.dumps(found))


def measure(name: str, budget: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all methods at one budget."""
    folder = Path(options.storage).absolute() / "data" / f"{name}-{budget}"
    for seed in range(options.splits):
        texts.write(folder / str(seed), texts.split(name, seed, budget))
    files = [f"data.{part}={folder}/${{seed}}/{part}.csv" for part in ("labeled", "unlabeled", "test")]
    one = study.load(str(STUDY), [f"name={name}-{budget}", f"storage={options.storage}", *options.overrides])
    one.seeds, one.overrides = list(range(options.splits)), [*one.overrides, *files]
    figures = study.run(one, lambda line: print(f"{name}, {budget} labels: {line}", flush=True))
    study_report.print_figures(figures)
    return summary(figures)


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """Return what stands in the last line for one budget."""
    methods = figures["methods"]
    return {name: of["mean"] for name, of in methods.items()} | {
        "p_value": methods["semievol"]["paired"]["p_value"],
        "gap_closed": figures["gap_closed"],
        "by_split": {name: of["by_seed"] for name, of in methods.items()},
    }


if __name__ == "__main__":
    main()

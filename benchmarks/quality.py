"""What SemiEvol gains over SFT on Financial PhraseBank, and how much of the gap to perfect pseudo-labels it closes.

    make bench-quality

Runs the study configs/studies/fpb.yaml; what is done is skipped. Prints one JSON object as its last line: means over the
seeds, and the figures of each seed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from semievol.errors import UserError
from semievol.reports import study as study_report
from semievol.studies import study

STUDY = Path(__file__).parents[1] / "configs" / "studies" / "fpb.yaml"
SHOWN = ("base", "sft", "sft-long", "semievol", "oracle")


def main() -> None:
    try:
        figures = study.run(study.load(str(STUDY), sys.argv[1:]), lambda line: print(line, flush=True))
    except UserError as error:
        sys.exit(f"bench-quality: {error}")
    study_report.print_figures(figures)
    print(json.dumps(summary(figures)))


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The last line. `p_value` is McNemar's of SemiEvol against SFT, its counts pooled over the seeds."""
    methods, test = figures["methods"], figures["methods"]["semievol"]["paired"]
    return {
        "dataset": "fpb",
        **{name: methods[name]["mean"] for name in SHOWN},
        "gap_closed": figures["gap_closed"],
        "seeds": len(figures["seeds"]),
        "p_value": test["p_value"],
        "by_seed": {
            "seed": figures["seeds"],
            **{name: methods[name]["by_seed"] for name in SHOWN},
            "gap_closed": methods["semievol"]["gap_closed_by_seed"],
            "p_value": [seed["p_value"] for seed in test["by_seed"]],
        },
    }


if __name__ == "__main__":
    main()

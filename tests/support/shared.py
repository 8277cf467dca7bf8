"""The small model and the rows that lie beside the checkout, in ../shared; tests that need them skip where they are not."""

import csv
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"
MODEL = SHARED / "models" / "tiny-lm"
_FPB = SHARED / "data" / "fpb"  # Financial PhraseBank
needs_model = pytest.mark.skipif(not MODEL.exists(), reason=f"needs {MODEL}, which is not here")
needs_rows = pytest.mark.skipif(not _FPB.exists(), reason=f"needs {_FPB}, which is not here")


def write_rows(folder: Path, **sizes: int) -> None:
    """Write SPLIT.csv with the first rows of each split.

    Args:
        sizes: rows of each split: labeled, unlabeled, test.
    """
    for split, size in sizes.items():
        with (_FPB / f"{split}.csv").open(newline="") as source, (folder / f"{split}.csv").open("w", newline="") as out:
            csv.writer(out).writerows(list(csv.reader(source))[: size + 1])

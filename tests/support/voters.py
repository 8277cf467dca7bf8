"""Rows that voters of known strength have answered, as the label stage writes them."""

from typing import Any

import numpy as np
import pyarrow as pa

from semievol.data import storage
from semievol.data.responses import to_record
from semievol.data.tables import CROSSFITTED, PSEUDO_LABELED
from semievol.method.confidence import Response, from_distribution

OPTIONS = ["w", "x", "y", "z"]
LETTERS = "ABCD"
MEMBERS = 3


class Voters:
    """A committee of three members, and others: right with a share, or `random`, `same` or `wrong`."""

    def __init__(self, others: dict[str, float | str], seed: int = 0) -> None:
        self._others = others
        self._rng, self._noise = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        self.truths: dict[int, str] = {}

    def write(self, folder: str, unlabeled: int, labeled: int = 64) -> None:
        """Write rows/ and crossfit/; of the members one answers each labeled row."""
        records = [self._row(i) for i in range(unlabeled + labeled)]
        for record in records[unlabeled:]:
            fold = record["row_id"] % MEMBERS
            ours = [r for r in record["responses"] if r["collaborator"] in (f"committee@warm-{fold}", *self._others)]
            record |= {"responses": ours, "fold": fold, "gold": self.truths[record["row_id"]]}
        for name, rows, schema in (
            ("rows", records[:unlabeled], PSEUDO_LABELED),
            ("crossfit", records[unlabeled:], CROSSFITTED),
        ):
            storage.write_table(f"{folder}/{name}/part-0.parquet", pa.Table.from_pylist(rows, schema=schema))

    def _row(self, number: int) -> dict[str, Any]:
        place = int(self._rng.integers(4))
        self.truths[number] = LETTERS[place]
        shared = self._rng.normal(size=4)
        given = []
        for member in range(MEMBERS):
            logits = 2 * (2.0 * np.eye(4)[place] + 0.7 * shared + 0.7 * self._rng.normal(size=4))
            shares = np.exp(logits) / np.exp(logits).sum()
            named = dict(zip(LETTERS, shares.tolist(), strict=True))
            given.append(from_distribution(f"committee@warm-{member}", named))
        given += [Response(name, self._says(kind, place), 0.01, 0.01) for name, kind in self._others.items()]
        return {
            "row_id": number,
            "question": f"question {number}",
            "options": OPTIONS,
            "answer": given[0].answer,
            "agreement": 1.0,
            "justified": False,
            "responses": [to_record(response) for response in given],
        }

    def _says(self, kind: float | str, place: int) -> str:
        other = LETTERS[(place + int(self._noise.integers(1, 4))) % 4]
        if kind == "random":
            return LETTERS[int(self._noise.integers(4))]
        if kind in ("same", "wrong"):
            return "A" if kind == "same" else other
        return LETTERS[place] if self._noise.random() < float(kind) else other

"""Search among the labeled rows: build the index, load it, and find the nearest of them for other rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import EmbeddingConfig, RetrieveConfig
from semievol.data import storage
from semievol.data.responses import listed
from semievol.data.tables import FOLDED, LABELED_RETRIEVED, fill, to_row
from semievol.method.folds import folds
from semievol.method.selection import sampled
from semievol.retrieval.dense import Hits, LabeledIndex
from semievol.retrieval.embedding import Embedder, text_of
from semievol.retrieval.lexical import LexicalIndex
from semievol.retrieval.probe import Probe, cross_fitted
from semievol.tasks import Row, Task

_MOST_CROSSFITTED = 20_000  # labeled rows that voters are weighed by, which is a few numbers
INDEX, CROSSFIT = "index", "crossfit"  # folders in that of the stage which builds the index
NEAR = 16  # labeled rows whose labels are the first candidates of a row
_FOLDS = 5  # to choose the regularisation of a probe, where there is no committee
SCORES = {"embedding": "cosine", "bm25": "BM25 score"}  # what `retrieve.by` compares by


def build_index(
    labeled: str,
    out: str,
    embedding: EmbeddingConfig,
    retrieve: RetrieveConfig,
    task: Task | None = None,
    members: int = 1,
    probed: Task | None = None,
) -> tuple[str, float]:
    """Index the labeled rows, and write them with their own neighbors. Return the index's SHA-256 and recall.

    Args:
        task: one whose prompts list candidates; the labeled rows get theirs.
        members: of the committee. With more than one, crossfit/ has the rows with their folds, and with neighbors and
            candidates from the other folds only.
        probed: the task of a probe, if one is wanted. It is fitted to the vectors, and saved beside the index; crossfit/
            gets the shares of probes that are fitted to the other folds.
    """
    table = storage.read_table(labeled)
    encode: Any = list if retrieve.by == "bm25" else Embedder(embedding).encode
    queries = encode([text_of(to_row(record)) for record in table.to_pylist()])
    every = np.arange(len(table))

    def among(asked: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> tuple[Any, pa.Table]:
        """Return an index of the known rows, and the rows that ask with their neighbors there; both given by their places."""
        rows, others = table.take(asked), table.take(known)
        texts, itself = _at(queries, asked), rows["row_id"].to_numpy()
        index = _index(_at(queries, known), others, retrieve)
        found = _with_neighbors(rows, index.search(texts, retrieve.k, itself), LABELED_RETRIEVED)
        if task is not None:
            near, _ = index.search(texts, NEAR, itself)
            found = _with_candidates(found, Candidates(task, others, encode).of(near, texts))
        return index, found

    index, rows = among(every, every)
    sha256 = index.save(storage.join(out, INDEX))
    storage.write_table(storage.join(out, "rows", "part-0.parquet"), rows)
    fold = _dealt(table, members) if members > 1 or probed else np.zeros(0, np.int32)
    shares = _probe(table, queries, fold, probed, storage.join(out, INDEX)) if probed else None
    if members > 1:
        parts, asked = [], sampled(table["row_id"].to_numpy(), min(1.0, _MOST_CROSSFITTED / max(len(table), 1)))
        for member in range(members):
            inside = np.flatnonzero((fold == member) & asked)
            _, part = among(inside, np.flatnonzero(fold != member))
            part = _with_probe(part, [listed(shares[i]) for i in inside] if shares else None)
            parts.append(part.append_column("fold", pa.array([member] * len(part), pa.int32())))
        storage.write_table(storage.join(out, CROSSFIT, "part-0.parquet"), pa.concat_tables(parts).cast(FOLDED))
    return sha256, index.recall


def _dealt(table: pa.Table, members: int) -> npt.NDArray[np.int32]:
    """Return the fold of each labeled row: one for each member, and of a single warm model as many as a probe wants."""
    ids = table["row_id"].to_pylist()
    dealt = folds(ids, table["answer"].to_pylist(), members if members > 1 else min(_FOLDS, len(ids)))
    return np.array([dealt[row_id] for row_id in ids], dtype=np.int32)


def _probe(
    table: pa.Table, vectors: npt.NDArray[np.float32], fold: npt.NDArray[np.int32], task: Task, index: str
) -> list[dict[str | None, float]]:
    """Fit a probe to the labeled rows and save it. Return the shares of each row, by a probe of the other folds."""
    answers = [task.parts(answer)[0] for answer in table["answer"].to_pylist()]  # as the label set spells them
    strength, shares = cross_fitted(vectors, answers, fold)
    Probe.fit(vectors, answers, strength).save(index)
    return shares


def _at(queries: Any, places: npt.NDArray[np.int64]) -> Any:
    """Return some of the queries, which are vectors, or the texts of BM25."""
    return [queries[i] for i in places] if isinstance(queries, list) else queries[places]


def _index(queries: Any, rows: pa.Table, retrieve: RetrieveConfig) -> Any:
    ids = rows["row_id"].to_numpy()
    if retrieve.by == "bm25":
        return LexicalIndex(queries, ids)
    return LabeledIndex.build(queries, ids, exact_up_to=retrieve.exact_up_to, k=retrieve.k)


class Candidates:
    """Finds the labels that are likeliest for a row: those of the nearest labeled rows, then those whose names are nearest.

    BM25 compares no names: there the rest of the set follows in its order.
    """

    def __init__(self, task: Task, labeled: pa.Table, encode: Any) -> None:
        self._task = task
        self._names = task.listed(Row("", [], None, None))
        self._vectors = encode(self._names) if encode is not list else None
        answers = zip(labeled["row_id"].to_pylist(), labeled["answer"].to_pylist(), strict=True)
        self._labels = {row_id: task.parts(answer) for row_id, answer in answers}

    def of(self, near: list[list[int]], queries: Any) -> list[list[str]]:
        """Return the candidates of each row, from the ids of its nearest labeled rows and its query."""
        if self._vectors is None:
            named = [self._names] * len(near)
        else:
            order = np.argsort(-(np.asarray(queries) @ self._vectors.T), axis=1, kind="stable")
            named = [[self._names[i] for i in places] for places in order]
        return [
            self._task.shortlist([*(label for row_id in ids for label in self._labels[row_id]), *names])
            for ids, names in zip(near, named, strict=True)
        ]


class Searcher:
    """The index at a URI, with the model that makes queries of rows.

    Args:
        rows: URI of the indexed rows, if candidates are wanted, for `task`.
    """

    def __init__(
        self, index: str, embedding: EmbeddingConfig, retrieve: RetrieveConfig, rows: str = "", task: Task | None = None
    ) -> None:
        lexical = retrieve.by == "bm25"
        self._encode: Any = list if lexical else Embedder(embedding).encode
        self._index: Any = (LexicalIndex if lexical else LabeledIndex).load(index)
        labeled = storage.read_table(rows, ["row_id", "answer"]) if task else None
        self._candidates = Candidates(task, labeled, self._encode) if task and labeled is not None else None

    def queries(self, rows: list[Row]) -> Any:
        """Return what is searched with: vectors, shape (rows, dimensions), or the texts of BM25."""
        return self._encode([text_of(row) for row in rows])

    def nearest(self, rows: list[Row], k: int, exclude: npt.NDArray[np.int64], queries: Any = None) -> Hits:
        """Return the k nearest labeled rows of each row, as `LabeledIndex.search` does. Give the rows their candidates."""
        queries = self.queries(rows) if queries is None else queries
        if self._candidates:
            near, _ = self._index.search(queries, NEAR, exclude)
            for row, candidates in zip(rows, self._candidates.of(near, queries), strict=True):
                row.candidates = candidates
        hits: Hits = self._index.search(queries, k, exclude) if k else ([[]] * len(rows), [[]] * len(rows))
        return hits


class Retriever:
    """Actor: rows in, rows with their k nearest labeled rows out, with candidates where prompts list them.

    Args:
        probed: add the shares that the probe beside the index gives.
    """

    def __init__(
        self, searcher: dict[str, Any], k: int, schema: pa.Schema, progress: Any, *, probed: bool = False
    ) -> None:
        wanted = k or searcher.get("task") is not None or probed
        self._searcher = Searcher(**searcher) if wanted else None  # nothing is loaded for k = 0
        self._probe = Probe.load(searcher["index"]) if probed else None
        self._k = k
        self._schema = schema
        self._progress = progress

    def __call__(self, batch: pa.Table) -> pa.Table:
        if len(batch) == 0:
            return self._schema.empty_table()
        found: Hits = ([[]] * len(batch), [[]] * len(batch))
        shares = None
        if self._searcher:
            rows = [to_row(record) for record in batch.to_pylist()]
            queries = self._searcher.queries(rows)
            found = self._searcher.nearest(rows, self._k, batch["row_id"].to_numpy(), queries)
            batch = _with_candidates(batch, [row.candidates for row in rows])
            shares = self._probe.records(queries) if self._probe else None
        self._progress.add.remote(len(batch))
        return _with_probe(_with_neighbors(batch, found, self._schema), shares)


def _with_candidates(rows: pa.Table, candidates: Sequence[list[str] | None]) -> pa.Table:
    place = rows.schema.get_field_index("candidates")
    return rows.set_column(place, "candidates", pa.array(candidates, pa.list_(pa.string())))


def _with_neighbors(rows: pa.Table, found: Hits, schema: pa.Schema) -> pa.Table:
    ids, scores = found
    given = {name: rows[name] for name in rows.column_names if name in schema.names}
    given |= {"neighbor_ids": pa.array(ids, pa.list_(pa.int64()))}
    return fill(given | {"neighbor_scores": pa.array(scores, pa.list_(pa.float32()))}, schema)


def _with_probe(rows: pa.Table, shares: list[list[dict[str, Any]]] | None) -> pa.Table:
    place = rows.schema.get_field_index("probe")
    given = rows.schema.field(place)
    return rows if shares is None else rows.set_column(place, given, pa.array(shares, given.type))

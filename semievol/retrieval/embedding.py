"""Sentence embeddings (sentence-transformers) for in-context propagation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from semievol.config import EmbeddingConfig
from semievol.data import models
from semievol.tasks import Row


def text_of(row: Row) -> str:
    """Return what is embedded of a row. Options are left out: they are often the same in all rows of a data set.

    The turns of a chat follow the question from the last to the first, so that the oldest are beyond the model's length.
    """
    earlier = [turn["content"] for turn in reversed(row.history) if turn["role"] != "system"]
    return "\n".join(filter(None, [row.question, row.context, *earlier]))


class Embedder:
    """A sentence-transformers model, on the accelerator if there is one."""

    def __init__(self, config: EmbeddingConfig) -> None:
        from sentence_transformers import SentenceTransformer

        self._model: Any = SentenceTransformer(models.local(config.model), trust_remote_code=False)
        if self._model.max_seq_length != math.inf:  # a static model takes any number of words
            self._model.max_seq_length = config.max_length
        self._batch_size = config.batch_size

    def encode(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return unit-length embeddings, shape (texts, dimensions): their inner product is the cosine."""
        vectors = self._model.encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)


class Similar:
    """Tell whether two texts say the same, by the cosine of their embeddings."""

    def __init__(self, embedder: Embedder, cosine: float) -> None:
        self._embedder = embedder
        self._cosine = cosine
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}

    def learn(self, texts: list[str]) -> None:
        """Embed texts together, which is quicker than one by one when they are compared."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors |= dict(zip(new, self._embedder.encode(new), strict=True))

    def __call__(self, a: str, b: str) -> bool:
        self.learn([a, b])
        return a == b or float(self._vectors[a] @ self._vectors[b]) >= self._cosine

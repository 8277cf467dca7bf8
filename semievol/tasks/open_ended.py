"""The task kind `open_ended`: an explanation, a summary, a letter. There is nothing to extract."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from semievol.tasks.base import Row, Task
from semievol.tasks.parsing.thoughts import without_end, without_thought

_SAME_ROUGE_L = 0.7  # from which responses agree where there is no embedding model
_HAN = r"[\u3040-\u30ff\u3400-\u9fff]"


class OpenEnded(Task):
    """Open-ended responses. The canonical answer is the response itself, without the white space around it."""

    unread: ClassVar = frozenset({"similarity"})
    instruction = "Write the response alone."

    kind: Literal["open_ended"] = "open_ended"
    similarity: float = Field(0.85, gt=0, le=1)
    """The cosine of their embeddings from which two responses agree."""

    @property
    def cosine(self) -> float | None:
        return self.similarity  # `same` is the fallback where no embedding model is at hand

    def gold(self, text: str, row: Row) -> str | None:
        # A dialogue that people give as the answer is whole, and not a response that went on.
        answered = self.parse(text, row) is not None
        return self._read(without_thought(without_end(text)) or "", row) if answered else None

    def respond(self, answer: str) -> str:
        return answer

    def _read(self, response: str, row: Row) -> str | None:
        return response.strip() or None

    def same(self, a: str, b: str) -> bool:
        return _rouge_l(a, b) >= _SAME_ROUGE_L

    def score(self, answer: str, gold: str) -> float:
        return _rouge_l(answer, gold)


class _Words:
    """Rouge's own tokenizer knows ASCII only. This is the same for all scripts; an unspaced sign is a word."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(rf"{_HAN}|(?:(?!{_HAN})[^\W_])+", text.lower())


def _rouge_l(a: str, b: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), from 0 to 1; symmetric."""
    if a == b:
        return 1.0  # also where there is no word in either
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"], tokenizer=_Words()).score(a, b)["rougeL"].fmeasure)

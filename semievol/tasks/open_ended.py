"""Open-ended responses: an explanation, a summary, a letter. There is nothing to extract."""

from __future__ import annotations

import re

from semievol.tasks.base import Row
from semievol.tasks.parsing.reading import shown

# F-measure from which two responses agree where there is no embedding model to ask.
_SAME_ROUGE_L = 0.7
_HAN = r"[\u3040-\u30ff\u3400-\u9fff]"


class OpenEnded:
    """The canonical answer is the response itself, without the white space around it.

    Attributes:
        similarity: cosine of their sentence embeddings from which two responses agree. The labeler compares by it;
            `same` is the fallback where no embedding model is at hand.
    """

    def __init__(self, similarity: float) -> None:
        self.similarity: float | None = similarity

    def problem(self, row: Row) -> str | None:
        return None

    def gold(self, text: str, row: Row) -> str | None:
        return text.strip() or None

    def expects(self, row: Row) -> str:
        return "a text"

    def ask(self, row: Row) -> str:
        return f"{shown(row)}\n\nWrite the response alone."

    def respond(self, answer: str) -> str:
        return answer

    def parse(self, response: str, row: Row) -> str | None:
        return response.strip() or None

    def choices(self, row: Row) -> list[str] | None:
        return None

    def in_words(self, answer: str, row: Row) -> str:
        return answer

    def same(self, a: str, b: str) -> bool:
        return _rouge_l(a, b) >= _SAME_ROUGE_L

    def score(self, answer: str, gold: str) -> float:
        return _rouge_l(answer, gold)

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        return None  # the response to another question answers nothing here


class _Words:
    """Rouge's own tokenizer knows ASCII only. This is the same for all scripts; an unspaced sign is a word."""

    _WORD = re.compile(rf"{_HAN}|(?:(?!{_HAN})[^\W_])+")

    def tokenize(self, text: str) -> list[str]:
        return self._WORD.findall(text.lower())


def _rouge_l(a: str, b: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), from 0 to 1; symmetric."""
    if a == b:
        return 1.0  # also where there is no word in either
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"], tokenizer=_Words()).score(a, b)["rougeL"].fmeasure)

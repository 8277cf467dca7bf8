"""The task kind `numeric`: a number, right within a relative tolerance (ConvFinQA, GSM8K)."""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import islice
from typing import Literal

from pydantic import Field

from semievol.tasks.base import Row, Task
from semievol.tasks.parsing import decimals
from semievol.tasks.parsing.decimals import ARITHMETIC
from semievol.tasks.parsing.reading import first_question, refuses, stated, without_latex

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

# What a reason begins with, as in "x = 5 (since 2x = 10)", "5, because 2 + 3 = 5" and "5. Check: 2 * 5 = 10".
_REASONS = 10  # the most that are looked at
_REASON = re.compile(
    r"[(\[][^()\[\]]*=|[,;:]?\s(?:because|since|as|where|given|when|if|for|so that|which)\b|[.;]\s+(?=[^\W\d])",
    re.IGNORECASE,
)
# What stands for another number than the digits in it.
_UNREAD = re.compile(r"\)/\(|\\(?:sqrt|pi|[a-z]*frac|log|ln|exp|sin|cos|tan|binom|infty|pm)(?![A-Za-z])")


class Numeric(Task):
    """A number. The canonical answer is a decimal string, with a % where it was written in percent.

    Percent: 12% agrees with 0.12 and with 12, but 12 never with 0.12. Data sets differ in what they write for the
    same answer (ConvFinQA 0.12, GSM8K 12), and models mostly say 12%; the sign tells which two readings are meant.
    Scale words multiply: 1.2 million is 1200000. Of several numbers in the answer that a response states, the first
    after the last "=" counts, without a reason that follows; where it states none, the last of the response.
    """

    unread = frozenset({"tolerance"})
    instruction = "Answer with a number alone, in the unit that the question asks for."

    kind: Literal["numeric"] = "numeric"
    tolerance: float = Field(0.01, ge=0, lt=1)
    """The largest difference of a right answer, as a share of the larger number (of the gold one, when scoring)."""

    def gold(self, text: str, row: Row) -> str | None:
        text = without_latex(text)
        if stated(text) is not None:  # a worked solution that ends in "#### 42"
            return self.parse(text, row)
        return None if _UNREAD.search(text) else decimals.only(text)

    def expects(self, row: Row) -> str:
        return "one number, such as -1,234.5, 12% or $3 million, or a solution that ends in #### and the number"

    def _read(self, response: str, row: Row) -> str | None:
        text = first_question(without_latex(response))
        said = stated(text)
        if said is None:
            found = [] if refuses(text) or _UNREAD.search(text.rpartition("=")[2]) else list(decimals.find(text))
            return found[-1] if found else _word(text)
        said = _result(said)
        result = said.rpartition("=")[2]
        if refuses(said) or _UNREAD.search(result):
            return None
        return next(decimals.find(result), None) or next(decimals.find(said), None) or _word(said)

    def same(self, a: str, b: str) -> bool:
        return a == b or any(self._near(x, y, max(abs(x), abs(y))) for x, y in _comparable(a, b))

    def score(self, answer: str, gold: str) -> float:
        return float(answer == gold or any(self._near(x, y, abs(y)) for x, y in _comparable(answer, gold)))

    def _near(self, x: Decimal, y: Decimal, size: Decimal) -> bool:
        return abs(ARITHMETIC.subtract(x, y)) <= ARITHMETIC.multiply(Decimal(str(self.tolerance)), size)


def _comparable(*answers: str) -> list[list[Decimal]]:
    """Return the pairs of values by which two answers may agree: as written, and with percent as hundredths."""
    written = [ARITHMETIC.create_decimal(text.removesuffix("%")) for text in answers]
    if not all(value.is_finite() for value in written):
        return []
    shares = [v.scaleb(-2, ARITHMETIC) if a.endswith("%") else v for a, v in zip(answers, written, strict=True)]
    return [written, shares]


def _result(said: str) -> str:
    """Return a stated answer without the reason behind it, if there is a number before that."""
    for reason in islice(_REASON.finditer(said), _REASONS):
        if next(decimals.find(said[: reason.start()]), None) is not None:
            return said[: reason.start()]
    return said


def _word(text: str) -> str | None:
    word = text.strip(" \t\r\n.*!").lower()
    return str(_WORDS.index(word)) if word in _WORDS else None

"""Read lists that stand as text in a cell: in the notation of JSON, of Python, or of NumPy, as pandas writes them to CSV."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
# Of NumPy: no commas. Python would glue the texts of such a list together.
_NUMPY = re.compile(rf"\[\s*((?:{_QUOTED})(?:\s+(?:{_QUOTED}))+)\s*\]", re.DOTALL)
_CALL = re.compile(r"(?:np\.|numpy\.)?array\((\[.*\])(?:,\s*dtype=[^()]*)?\)", re.DOTALL)


def as_list(text: str) -> list[Any] | None:
    """Return the items of a list that a text writes down; None if it is no list."""
    text = text.strip()
    if call := _CALL.fullmatch(text):
        text = call[1]
    if text[:1] != "[" or text[-1:] != "]":
        return None
    if array := _NUMPY.fullmatch(text):
        text = f"[{', '.join(re.findall(_QUOTED, array[1]))}]"
    found = literal(text)
    return found if isinstance(found, list) else None


def literal(text: str) -> Any:
    """Return the value that a text writes down in the notation of JSON, Python or NumPy; None if it is none of them.

    NumPy puts a line break, and no comma, between mappings. In Python's notation no text has one.
    """
    for read, written in (
        (json.loads, text),
        (ast.literal_eval, text),
        (ast.literal_eval, text.replace("}\n {", "}, {")),
    ):
        try:
            return read(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None

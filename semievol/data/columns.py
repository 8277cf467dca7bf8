"""Choose the columns of people's files: texts, options, answers. Names count first, and what is in the cells second."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from semievol.data import column_names as known
from semievol.data.profile import Column, Profile
from semievol.errors import UserError

_FEW, SHORT = 20, 60  # distinct numbers that may be classes; bytes of a label or a short answer
_SEPARATORS = (";", "|", ",", "/")


@dataclass(frozen=True)
class Given:
    """What a person has said, as flags."""

    kind: str | None = None
    question: str | None = None
    answer: str | None = None


def check_given(labeled: Profile, unlabeled: Profile, test: Profile | None, given: Given) -> None:
    for flag in ("question", "answer"):
        name = getattr(given, flag)
        of = [labeled, test, *([unlabeled] if flag == "question" and not unlabeled.any_name else [])]
        for profile in filter(None, of):
            if name is not None and name not in profile.columns:
                has = ", ".join(profile.columns)
                raise UserError(f"--{flag}: '{profile.pattern}' has no column '{name}'; it has {has}")


def everywhere(name: str, unlabeled: Profile, test: Profile | None) -> bool:
    return (unlabeled.any_name or name in unlabeled.columns) and (test is None or name in test.columns)


def plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _by_name(names: Iterable[str], likely: tuple[str, ...], fits: Callable[[str], bool]) -> str | None:
    """Return the column with the likeliest name: first whole names, then those that end in one."""
    able = [name for name in names if fits(name)]
    for same in (str.__eq__, str.endswith):
        for wanted in likely:
            for name in able:
                if same(plain(name), wanted) and (same is str.__eq__ or len(wanted) > 3):
                    return name
    return None


def options_column(labeled: Profile, shared: set[str], given: Given) -> str | None:
    if given.kind not in (None, "multiple_choice"):
        return None
    name = _by_name(
        sorted(shared), known.OPTIONS, lambda n: labeled.columns[n].listed or labeled.columns[n].mappings > 0
    )
    if name and labeled.columns[name].mappings:
        raise UserError(
            f"'{labeled.pattern}': column '{name}' holds mappings. Multiple choice reads a list of the options' texts: write "
            f"it into a column, or use --kind free_text"
        )
    letters = [n for n in labeled.columns if re.fullmatch(r"(option|choice|answer|opt)?[a-e1-5]", plain(n))]
    if name is None and len(letters) >= 3 and given.kind in (None, "multiple_choice"):
        raise UserError(
            f"'{labeled.pattern}': the options stand in columns of their own ({', '.join(letters)}). Multiple choice reads one "
            f"column with a JSON list of them: write it, or use --kind to name another kind of task"
        )
    if name is None and given.kind == "multiple_choice":
        raise UserError(f"--kind multiple_choice: no column of '{labeled.pattern}' is a list of options")
    return name


def text_column(labeled: Profile, names: set[str], unlabeled: Profile, given: Given) -> tuple[str, str]:
    columns = labeled.columns
    if given.question:
        return given.question, "you named it"

    def text(name: str) -> bool:
        column = columns[name]
        words = column.filled > 0.5 * labeled.rows and not column.listed and not column.mappings and not column.numeric
        return words and len(column.counts) > 1 - (labeled.rows == 1) and not is_label(column, labeled.rows)

    if (name := _by_name([n for n in columns if n in names], known.QUESTIONS, text)) is not None:
        return name, "by its name"
    able = [name for name in columns if name in names and text(name) and columns[name].prose > 0.5]
    if able and (best := max(able, key=lambda name: columns[name].mean)):
        return best, "it holds the longest texts"
    only = f", and '{unlabeled.pattern}' {', '.join(unlabeled.columns)}" * (not names)
    raise UserError(
        f"cannot tell which column holds the texts: '{labeled.pattern}' has {', '.join(columns)}{only}. "
        + ("Name it: --question COLUMN" if names else "The texts must be in columns of the same name")
    )


def answer_column(labeled: Profile, names: set[str], unlabeled: Profile, given: Given) -> tuple[str, str]:
    columns = labeled.columns
    if given.answer:
        return given.answer, "you named it"
    ordered = [n for n in columns if n in names and columns[n].filled > 0.5 * labeled.rows]
    varied = [n for n in ordered if len(columns[n].counts) > 1 and not columns[n].mappings]

    def repeated(name: str) -> bool:
        column = columns[name]
        return is_label(column, labeled.rows) or column.listed or separator(column) is not None

    for likely, fits in (
        (known.FIRST_ANSWERS, lambda name: True),
        (known.ANSWERS, repeated),
        (known.ANSWERS, lambda name: not _dates(columns[name])),
    ):
        if (name := _by_name(varied, likely, fits)) is not None:
            return name, "by its name"
    able = [n for n in varied if not known.IDS.fullmatch(n.lower()) and not _dates(columns[n])]
    alone = [n for n in able if n not in unlabeled.columns or not unlabeled.columns[n].filled]
    if len(alone) == 1:
        return alone[0], "only labeled rows have it"
    for these, why in ((alone, "only labeled rows have it, and its values repeat"), (able, "its values repeat")):
        if len(labels := [n for n in these if is_label(columns[n], labeled.rows)]) == 1:
            return labels[0], why
    useless = {n: "the same in all rows" for n in ordered if len(columns[n].counts) == 1}
    useless |= {n: "mappings, not texts" for n in ordered if columns[n].mappings}
    aside = "".join(f" ({name}: {why})" for name, why in useless.items())
    way_out = "Name it: --answer COLUMN" if names else "The first file is that of rows with answers, the second without"
    raise UserError(
        f"cannot tell which column holds the answers: '{labeled.pattern}' has {', '.join(columns)}{aside}. {way_out}"
    )


def _dates(column: Column) -> bool:
    return sum(n for value, n in column.counts.items() if known.DATE.fullmatch(value)) > 0.5 * column.filled


def is_label(column: Column, rows: int) -> bool:
    """Tell whether a column has few, short and repeated values."""
    few = len(column.counts) > 1 and column.repeats >= (1.5 if len(column.counts) <= 10 else 2)
    numbers = not column.numeric or (
        len(column.counts) <= _FEW and all(re.fullmatch(r"-?\d+(\.0|\.5)?", v) for v in column.counts)
    )
    short = column.mean <= SHORT and column.longest <= 5 * SHORT
    return few and short and numbers and column.filled > 0.5 * rows and not column.listed and not _dates(column)


def names_of(labels: str, labeled: Profile, among: set[str]) -> str | None:
    """Return the column with the names of labels, where a column has their numbers."""
    numbers = labeled.columns[labels]
    if not numbers.numeric or not is_label(numbers, labeled.rows):
        return None
    for name in sorted(among - {labels}):
        words = labeled.columns[name]
        pairs = set(zip(numbers.cells, words.cells, strict=True))
        if not words.numeric and len(pairs) == len(words.counts) == len(numbers.counts):
            return name
    return None


def separator(column: Column) -> str | None:
    """Return the sign between the labels of a cell, where cells hold several of a few labels."""
    if column.listed or column.mean > 5 * SHORT:
        return None
    for sign in _SEPARATORS:
        cells = [[part.strip() for part in cell.split(sign)] for cell in column.counts.elements() if cell]
        parts = Counter(part for cell in cells for part in cell if part)
        joined = sum(len(cell) > 1 for cell in cells)
        short = all(len(part) <= SHORT for part in parts)
        fewer = len(parts) < 0.9 * len(column.counts) and sum(parts.values()) >= 3 * len(parts)
        if joined > 0.1 * len(cells) and fewer and short and len(parts) > 1:
            return sign
    return None

"""Guess from the columns of people's files what a config must say: the kind of task, the columns, the labels.

Names of columns count first, and what is in them second. Every decision comes with its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from semievol.data import column_names as known
from semievol.data.columns import (
    SHORT,
    Given,
    answer_column,
    check_given,
    everywhere,
    is_label,
    names_of,
    options_column,
    plain,
    separator,
    text_column,
)
from semievol.data.labels import merged
from semievol.data.profile import Column, Profile
from semievol.errors import UserError
from semievol.tasks import Row
from semievol.tasks.classification import Classification
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.numeric import Numeric

_SEPARATOR = ";"  # the default of task.separator


@dataclass
class Guess:
    """What a config must say, and why."""

    kind: str
    question: str
    answer: str
    options: str | None = None
    context: str | None = None
    together: tuple[str, str] | None = None  # two columns that a template shows
    messages: str | None = None  # the column of chats
    instruction: str | None = None  # that all rows have
    labels: Counter[str] = field(default_factory=Counter)
    multiple: bool = False
    separator: str | None = None
    oracle: bool = False  # unlabeled rows have answers too
    why: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def guess(labeled: Profile, unlabeled: Profile, test: Profile | None, given: Given) -> Guess:
    """Guess what a config must say; raise where the columns do not tell."""
    check_given(labeled, unlabeled, test, given)
    if chat := _chat(labeled, unlabeled, given):
        return chat
    shared = {name for name in labeled.columns if everywhere(name, unlabeled, test)}
    options = options_column(labeled, shared, given)
    question, why_question = text_column(labeled, shared - {given.answer, options}, unlabeled, given)
    others = labeled.columns.keys() - {question, options}
    answer, why_answer = answer_column(labeled, others, unlabeled, given)
    testable = others if test is None else others & test.columns.keys()
    if not given.answer and (named := names_of(answer, labeled, testable)):
        answer, why_answer = named, f"it names the numbers of column {answer}"
    _check_header(labeled, question, answer)
    found = Guess("", question, answer, options)
    found.why |= {"question": why_question, "answer": why_answer}
    if test is not None and found.answer not in test.columns:
        raise UserError(
            f"'{test.pattern}' has no column '{found.answer}' with the answers; it has {', '.join(test.columns)}. Test rows need "
            f"answers: name another column with --answer COLUMN, or leave TEST out, and a fifth of the labeled rows is held back"
        )
    _decide(found, labeled, given)
    _more_text(found, labeled, shared)
    column = unlabeled.columns.get(found.answer)
    found.oracle = column is not None and column.filled > 0.5 * unlabeled.rows
    if empty := labeled.rows - labeled.columns[found.answer].filled:
        none = ": write [] where a row has no label" * found.multiple
        rows = "1 labeled row has" if empty == 1 else f"{empty:,} labeled rows have"
        found.notes.append(f"{rows} no {found.answer}, and will not be used{none}")
    shown = {found.answer, found.context, *(found.together or ())}
    if more := sorted(name for name in others - shown if is_label(labeled.columns[name], labeled.rows)):
        found.notes.append(f"{_listed(more)} might be labels too: --answer COLUMN takes another column")
    if labeled.pattern == unlabeled.pattern:
        found.notes.append(
            "LABELED and UNLABELED are the same files: a row that is labeled is not labeled again, so none is left. "
            "Give other rows as UNLABELED"
        )
    return found


def _check_header(labeled: Profile, question: str, answer: str) -> None:
    """Raise if the first line of a file holds a row and not the names of columns."""
    column = labeled.columns[answer]
    if column.counts[answer] > 1 or (column.numeric and plain(answer).isdigit()):
        raise UserError(
            f"'{labeled.pattern}': its first line, {question[:40]}, {answer}, looks like a row and not like the names of columns. "
            f"Put a line with names before it, such as text,label"
        )


def _chat(labeled: Profile, unlabeled: Profile, given: Given) -> Guess | None:
    if given.kind not in (None, "chat") or (given.question and not given.kind) or (given.answer and not given.kind):
        return None
    for name, column in labeled.columns.items():
        turns = [turn for turn in chain.from_iterable(islice(column.lists.values(), 100)) if isinstance(turn, dict)]
        if column.listed and turns and all({"role", "from"} & turn.keys() for turn in turns):
            reason = f"column {name} holds lists of messages"
            if name not in unlabeled.columns:
                raise UserError(
                    f"'{unlabeled.pattern}' has no column '{name}' with chats; it has {', '.join(unlabeled.columns)}"
                )
            return Guess("chat", name, name, messages=name, why={"task": reason})
    asked = next((n for n in labeled.columns if plain(n) in known.ASKED and everywhere(n, unlabeled, None)), None)
    said = next((n for n in labeled.columns if plain(n) in known.SAID), None)
    if asked and said:
        answers, more = labeled.columns[said], next((n for n in labeled.columns if plain(n) == "input"), None)
        label = is_label(answers, labeled.rows) or answers.numeric
        # Requests that differ and come with an input are shown as a whole by a chat only.
        alpaca = more is not None and labeled.columns[more].filled > 0 and len(labeled.columns[asked].counts) > 1
        if given.kind or not (label or (answers.mean <= SHORT and not alpaca)):
            return Guess(
                "chat", asked, said, why={"task": f"columns {asked} and {said} are a request and its response"}
            )
    if given.kind:
        raise UserError(f"--kind chat: '{labeled.pattern}' has no chats; it has {', '.join(labeled.columns)}")
    return None


def _decide(found: Guess, labeled: Profile, given: Given) -> None:
    """Set the kind of task and its labels, by what the answers look like."""
    column = labeled.columns[found.answer]
    if found.options:
        return _multiple_choice(found, labeled)
    kind, why = given.kind, "you named it"
    items = [str(item) for cell in column.lists.values() for item in cell if not isinstance(item, (dict, list))]
    several = separator(column) if given.kind in (None, "classification") else None
    if column.listed:
        kind = kind or ("classification" if len(items) >= 2 * len(set(items)) else "free_text")
        why = "its cells are lists of labels" if kind == "classification" else "its cells are lists of right answers"
    elif kind is None and is_label(column, labeled.rows) and several is None:
        kind, why = (
            "classification",
            f"column {found.answer} has {len(column.counts):,} values in {column.filled:,} rows",
        )
    elif kind is None and several is not None:
        kind, why = "classification", f"column {found.answer} holds several labels, with '{several}' between them"
    elif kind is None and (column.numeric or _solutions(column)):
        kind, why = "numeric", f"column {found.answer} holds numbers"
    elif kind is None:
        kind = "free_text" if column.mean <= SHORT and column.longest <= 5 * SHORT else "open_ended"
        size = f"{column.mean:,.0f} bytes on average, hardly any twice"
        why = f"column {found.answer} holds {'short' if kind == 'free_text' else 'long'} texts ({size})"
    found.kind, found.why["task"] = kind, why
    if kind == "classification":
        found.multiple, found.separator = column.listed or several is not None, several
        split = (part.strip() for value in column.counts.elements() for part in value.split(several or "\0"))
        counts = Counter(items if column.listed else filter(None, split))
        found.labels = merged(Classification(separator=_SEPARATOR).learned(counts), counts)
        if found.multiple and any(_SEPARATOR in label for label in found.labels) and not several:
            found.separator = next(
                sign for sign in ("|", "||", ";;") if not any(sign in label for label in found.labels)
            )


def _multiple_choice(found: Guess, labeled: Profile) -> None:
    task, options = MultipleChoice(), labeled.columns[found.options or ""]
    answers, right = labeled.columns[found.answer].cells, 0
    for number, cell in options.lists.items():
        row, answer = Row("", [str(option) for option in cell], None, None), answers[number]
        right += answer is not None and task.gold(answer, row) is not None
    if right < 0.5 * len(options.lists):
        shown = ", ".join(list(labeled.columns[found.answer].counts)[:3])
        raise UserError(
            f"'{labeled.pattern}': column '{found.answer}' ({shown}, ...) holds neither letters nor texts of options, as multiple "
            f"choice reads them. Write letters in place of positions, or name another column: --answer COLUMN"
        )
    found.kind, found.why["task"] = "multiple_choice", f"column {found.options} holds lists of options"


def _solutions(column: Column) -> bool:
    """Tell whether the cells are worked solutions that end in #### and a number."""
    solved = [cell for cell in column.counts if "####" in cell or "\\boxed" in cell]
    numeric = Numeric(tolerance=0.01)
    return len(solved) > 0.9 * len(column.counts) > 0 and all(
        numeric.gold(c, Row("", [], None, None)) for c in solved[:100]
    )


def _more_text(found: Guess, labeled: Profile, shared: set[str]) -> None:
    """Set what a prompt shows beside the question: a context, a second text, or an instruction that all rows have."""
    columns = labeled.columns
    able = shared - {found.answer, found.options}
    able = {n for n in able if columns[n].prose > 0.3 and columns[n].filled > 0.3 * labeled.rows}
    texts = {plain(n): n for n in columns if n in able}
    varied = {name for name, column in texts.items() if len(columns[column].counts) > 1}
    for first, second in known.PAIRS:
        if found.question in (texts.get(first), texts.get(second)) and {first, second} <= varied:
            found.together = (texts[first], texts[second])
            found.why["question"] += f"; the prompt shows {texts[first]} and {texts[second]}"
            return
    found.context = next((texts[c] for c in known.CONTEXTS if c in texts and texts[c] != found.question), None)
    for name in shared:
        same = plain(name) == "instruction" and len(columns[name].counts) == 1 and name != found.question
        if same and columns[name].filled == labeled.rows:
            found.instruction = next(iter(columns[name].counts))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def in_order(labels: Counter[str]) -> Iterator[tuple[str, int]]:
    """Yield labels with their rows: numbers by size, others by how many rows they have."""
    numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels)
    yield from sorted(labels.items(), key=lambda item: (float(item[0]) if numbers else -item[1], item[0]))

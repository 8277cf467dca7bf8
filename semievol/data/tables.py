"""The Arrow schema of every table in a run folder, and the validator that turns an input row into a `Row`.

No column has the null type: an absent string is null in a `string` column, so that parts of different tasks
always concatenate.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from semievol.config import Columns
from semievol.data import chats
from semievol.data.options import read as _options_of
from semievol.tasks import Row, Task

_EXACT = 1e15  # whole floats below are printed as whole numbers
ROW_ID = ("row_id", pa.int64())
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# What a `semievol.tasks.Row` is made of, but for its answer.
_ROW = [
    ("question", pa.string()),
    ("options", pa.list_(pa.string())),
    ("context", pa.string()),
    ("history", _MESSAGES),  # of a chat: the turns before the question
    ("fields", pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))),  # columns that templates name
    ("candidates", pa.list_(pa.string())),  # answers that the prompt lists, where retrieval chooses them
]
_TEXT = [ROW_ID, *_ROW, ("stratum", pa.string())]  # stratum: a group for stratified selection

UNLABELED = pa.schema(_TEXT)
LABELED = pa.schema([*_TEXT, ("answer", pa.string())])  # also the schema of test rows
ORACLE = pa.schema([ROW_ID, ("oracle", pa.string())])
# Rows that a stage could not use. `row_id` is null if the content was not valid.
QUARANTINE = pa.schema(
    [ROW_ID, ("stage", pa.string()), ("reason", pa.string()), ("source", pa.string()), ("raw", pa.string())]
)
_NEIGHBORS = [("neighbor_ids", pa.list_(pa.int64())), ("neighbor_scores", pa.list_(pa.float32()))]
RETRIEVED = pa.schema([*_TEXT, *_NEIGHBORS])
LABELED_RETRIEVED = pa.schema([*LABELED, *_NEIGHBORS])
_FOLD = ("fold", pa.int32())  # of a labeled row; the member of this number has not seen it
FOLDS = pa.schema([ROW_ID, _FOLD])
FOLDED = pa.schema([*LABELED_RETRIEVED, _FOLD])  # with neighbors from the other folds
# One response of a collaborator (semievol.method.confidence.Response); entropies in nats.
# Of more than 32 answers the likeliest, and the rest together as the share of the answer null.
_SHARES = pa.list_(pa.struct([("answer", pa.string()), ("share", pa.float32())]))
RESPONSE = pa.struct(
    [
        ("collaborator", pa.string()),
        ("answer", pa.string()),  # null if the response holds none
        ("nll", pa.float32()),
        ("token_entropy", pa.float32()),
        ("tokens", pa.int32()),
        ("distribution", _SHARES),  # only of collaborators that give the share of each answer
        ("error", pa.string()),  # the reason if there is no response
        ("cut", pa.bool_()),  # the row was shortened for the prompt to fit
        ("prompt_tokens", pa.int32()),  # of the request; stored with the first of its responses
    ]
)
_RESPONSES = [("responses", pa.list_(RESPONSE))]
ANSWERED_IN_PART = pa.schema([*RETRIEVED, *_RESPONSES])  # between the passes of different models
# The columns that labeling adds. A quarantined row has a reason and no answer.
_VERDICT = [
    ("answer", pa.string()),
    ("agreement", pa.float32()),  # share of the responses that give the answer
    ("nll", pa.float32()),  # mean negative log-probability per token
    ("token_entropy", pa.float32()),  # mean entropy of the next-token distributions
    ("vote_entropy", pa.float32()),  # of the collaborators' mean distribution over answers
    ("shares", _SHARES),  # that mean; of sets of labels, the share of the responses that have each label
    ("justified", pa.bool_()),  # decided by self-justification
    ("prompt_tokens", pa.int32()),
    ("output_tokens", pa.int32()),
    *_RESPONSES,
    ("quarantine_reason", pa.string()),
]
PSEUDO_LABELED = pa.schema([*_TEXT, *_VERDICT])
# `likelihood`: of open-ended tasks the mean log-probability of the true response's tokens, of scored ones the log of the
# true answer's share.
PREDICTED = pa.schema([*_TEXT, ("gold", pa.string()), *_VERDICT, ("likelihood", pa.float32())])
CROSSFITTED = pa.schema([*PREDICTED, _FOLD])  # labeled rows, answered by who has not seen them
SELECTED = pa.schema([*PSEUDO_LABELED, ("selected", pa.bool_()), ("rejected_because", pa.string())])
# Rendered training rows: chat messages in TRL's prompt / completion format, and their tokens for the trained model.
# Labels are -100 where no loss is taken. Tokens are null if a row is too long, or if an endpoint trains.
# `soft`: the places in `labels` where several tokens may stand, or where a token counts less than 1 (semievol.trainers.targets).
_SOFT = pa.struct([("place", pa.int32()), ("tokens", pa.list_(pa.int32())), ("shares", pa.list_(pa.float32()))])
_TOKENS = [("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("soft", pa.list_(_SOFT))]
TRAINING = pa.schema([ROW_ID, ("prompt", _MESSAGES), ("completion", _MESSAGES), *_TOKENS])


def in_part(schema: pa.Schema) -> pa.Schema:
    """Return what rows of a schema are before the last pass: without a verdict, and with what the next pass needs."""
    kept = [field for field in schema if field.name in ("gold", "fold")]
    return pa.schema([*ANSWERED_IN_PART, *kept])


ROW_COLUMNS = ["row_id", *(name for name, _ in _ROW)]  # what `to_row` reads, but for the answer


def row_id(row: Row) -> int:
    """Return a 64-bit id of the content, without the answer: equal rows have equal ids in any file or run.

    Unicode is NFC-normalised and white space collapses to one blank, so a re-export does not change ids.
    """

    def canonical(text: str) -> str:
        return " ".join(unicodedata.normalize("NFC", text).split())

    content: list[Any] = [canonical(row.question), list(map(canonical, row.options)), canonical(row.context or "")]
    if row.history or row.fields:
        content.append([[turn["role"], canonical(turn["content"])] for turn in row.history])
        content.append(sorted([name, canonical(value)] for name, value in row.fields.items()))
    digest = hashlib.blake2b(json.dumps(content, ensure_ascii=False).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def fill(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """Return a table of the schema; columns that are not given are null."""
    given = pa.table(columns)
    return pa.concat_tables([schema.empty_table(), given], promote_options="permissive").cast(schema)


def to_row(record: dict[str, Any]) -> Row:
    """Return a record of any of these tables as a task row."""
    fields = {field["name"]: field["value"] for field in record.get("fields") or ()}
    history, candidates = record.get("history") or [], record.get("candidates")
    return Row(
        record["question"], record["options"], record["context"], record.get("answer"), history, fields, candidates
    )


def to_record(row: Row) -> dict[str, Any]:
    """Return a task row as a record of these tables, with its id."""
    fields = [{"name": name, "value": value} for name, value in row.fields.items()]
    return {"row_id": row_id(row)} | vars(row) | {"fields": fields}


class BadRow(Exception):
    """A row cannot be used; the message is the reason that quarantine records."""


def validate(
    raw: dict[str, Any],
    columns: Columns,
    task: Task,
    *,
    answer_column: str | None,
    max_bytes: int,
    fields: Sequence[str] = (),
    notes: list[str] | None = None,
) -> Row:
    """Return an input row as a `Row` of the task, or raise `BadRow`; without `answer_column` it has no answer.

    Args:
        fields: further columns to keep, for the prompt's templates.
        notes: gets what was changed for a chat to fit.
    """
    if task.conversational:
        return _chat(raw, columns, task, answer_column is not None, max_bytes, fields, notes)
    question = _text(raw.get(columns.question), columns.question, max_bytes)
    if not question:
        raise BadRow(f"column '{columns.question}' is empty")
    context = _text(raw.get(columns.context), columns.context, max_bytes) if columns.context else ""
    shown = None if "options" in task.ignores else columns.options
    options = _options(raw.get(shown), shown, max_bytes) if shown else []
    more = {name: cell_text(raw, name, max_bytes) for name in fields}
    row = Row(question=question, options=options, context=context or None, answer=None, fields=more)
    if problem := task.problem(row):
        raise BadRow(problem)
    if answer_column is not None:
        text = cell_text(raw, answer_column, max_bytes)
        if not text:
            raise BadRow(f"column '{answer_column}' is empty")
        row.answer = task.gold(text, row)
        if row.answer is None:
            why = f"'{text[:60]}'; {task.refusal(text, row)}"
            raise BadRow(f"column '{answer_column}' is not an answer to the row: {why}")
    return row


def _chat(
    raw: dict[str, Any],
    columns: Columns,
    task: Task,
    answered: bool,
    max_bytes: int,
    fields: Sequence[str],
    notes: list[str] | None,
) -> Row:
    try:
        chat = chats.read(raw, columns, text_cleaner(max_bytes), answered=answered)
    except chats.NoChat as error:
        raise BadRow(str(error)) from None
    turns = [*(turn["content"] for turn in chat.history), chat.question, chat.answer or ""]
    if (size := sum(len(turn.encode()) for turn in turns)) > max_bytes:
        raise BadRow(f"the chat is longer than limits.max_row_bytes = {max_bytes:,}: {size:,} bytes")
    context = cell_text(raw, columns.context, max_bytes) or None
    more = {name: cell_text(raw, name, max_bytes) for name in fields}
    row = Row(chat.question, [], context, None, history=chat.history, fields=more)
    if problem := task.problem(row):
        raise BadRow(problem)
    if answered:
        row.answer = task.gold(chat.answer or "", row)
        if row.answer is None:
            raise BadRow(f"the assistant's last turn is not an answer to the chat; expected {task.expects(row)}")
    if notes is not None:
        notes += chat.notes
    return row


def text_cleaner(max_bytes: int) -> chats.Clean:
    """Return a function that reads a value as text, as cells are read."""
    return lambda value, name: _text(value, name, max_bytes)


def cell_text(raw: dict[str, Any], column: str | None, max_bytes: int) -> str:
    """Return a cell as text, "" if there is none; a list (several right answers) becomes a JSON list."""
    value = without_places(raw.get(column)) if column else None
    if isinstance(value, list):
        value = json.dumps([_printed(each) for each in value], ensure_ascii=False, default=str)
    return _text(value, column or "", max_bytes)


def without_places(value: Any) -> Any:
    """Return the texts of answers that come with their places in the context, as SQuAD and its kin have them."""
    return value.get("text") if isinstance(value, dict) and "answer_start" in value else value


def _text(value: Any, column: str, max_bytes: int) -> str:
    value = _printed(value)
    if value is None:
        return ""
    if isinstance(value, (list, dict, bytes)):
        raise BadRow(f"column '{column}' holds a {type(value).__name__}, not text")
    text = str(value).strip()
    if "\x00" in text:
        raise BadRow(f"column '{column}' holds NUL bytes")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # surrogates: the readers make them from bytes that are not UTF-8
        raise BadRow(f"column '{column}' is not valid UTF-8") from None
    if size > max_bytes:
        raise BadRow(f"column '{column}' is longer than limits.max_row_bytes = {max_bytes:,}: {size:,} bytes")
    return text


def _printed(value: Any) -> Any:
    """Return a number, a truth value or a date as a person writes it: 3 for 3.0, true, 2024-01-31; NaN and NaT are None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < _EXACT
        return None if math.isnan(value) else str(int(value)) if whole else repr(value)
    if isinstance(value, Decimal):
        return format(value.normalize(), "f") if value.is_finite() else None
    if isinstance(value, datetime):  # before date, of which it is a kind
        midnight = value.time() == time() and value.tzinfo is None
        return value.date().isoformat() if midnight else value.isoformat(" ").removesuffix("+00:00")
    if isinstance(value, bytes):  # as some writers of Parquet store text
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _options(value: Any, column: str, max_bytes: int) -> list[str]:
    if value is None or value == "":
        return []
    listed = _options_of(value)
    if listed is None:
        what = repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
        raise BadRow(
            f"column '{column}' is no list of options but {what}: write a list, a JSON list, or a mapping of letters to texts"
        )
    options = [_text(option, f"{column}[{i}]", max_bytes) for i, option in enumerate(listed)]
    if "" in options:
        raise BadRow(f"option {options.index('') + 1} of {len(options)} is missing or empty")
    return options

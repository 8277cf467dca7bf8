"""Look at people's files and write a config for them: the command `init`."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semievol.errors import UserError

if TYPE_CHECKING:
    from semievol.data.guess import Guess
    from semievol.data.profile import Profile

app = typer.Typer()

_MOST_LABELS = 30  # that are written into the config
_BYTES_PER_TOKEN = 3  # few for any language, so that lengths are rather too long
_LISTED_BYTES = 1_024  # a longer list of labels is not in the prompts
_AROUND = 80  # tokens of the instruction and the chat template
_GENERIC = {"labeled", "labelled", "train", "training", "data", "dataset", "label", "labels", "part", "rows"}
_WHERE = "Where to write. Default: the name of the labeled file, in this folder."
_KIND = "If the guess is wrong: classification, multiple_choice, numeric, free_text, open_ended or chat."


@app.command()
def init(
    labeled: Annotated[str, typer.Argument(metavar="LABELED", help="Rows with answers: a file, folder, glob or URI.")],
    unlabeled: Annotated[str, typer.Argument(metavar="UNLABELED", help="Rows without answers.")],
    test: Annotated[
        str | None, typer.Argument(metavar="[TEST]", help="Rows to measure on. Default: a fifth of LABELED.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE.yaml", help=_WHERE)] = None,
    model: Annotated[str | None, typer.Option(metavar="BASE", help="The model to fine-tune.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help=_KIND)] = None,
    question: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column with the texts.")] = None,
    answer: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column with the labels or answers.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Look at your files and write a config for them, with comments.

    Reads the first rows of each file, and says what it saw and why it chose so. It asks nothing: where a choice is wrong,
    run it again with the flag that stands behind the choice and with --force, or edit the config.

    **Example:** `semievol init train.csv new.csv --model Qwen/Qwen2.5-0.5B-Instruct`
    """
    from semievol.data.columns import Given
    from semievol.data.guess import guess
    from semievol.data.profile import profile
    from semievol.tasks import KINDS

    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind: must be one of {', '.join(sorted(KINDS))}, is '{kind}'")
    name = _name(labeled)
    path = Path(output or f"{name}.yaml")
    if path.exists() and not force:
        raise UserError(f"{path} exists already. Name another file with -o, or write over it with --force")
    looked = []
    for what, pattern in (("LABELED", labeled), ("UNLABELED", unlabeled), ("TEST", test)):
        try:
            looked.append(profile(pattern) if pattern is not None else None)
        except UserError as error:
            raise UserError(f"{what}: {error}") from None
    given_labeled, given_unlabeled, given_test = looked
    assert given_labeled and given_unlabeled
    found = guess(given_labeled, given_unlabeled, given_test, Given(kind, question, answer))
    text = render(found, given_labeled, given_unlabeled, given_test, name=name, model=model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    for line in _said(found, given_labeled, given_unlabeled, given_test):
        typer.echo(_line(line))
    typer.echo(f"wrote {path}. {'Read it' if model else 'Read it, set model.base in it'}, then:")
    for command in ("plan", "preview", "run"):
        typer.echo(f"  semievol {command} {shlex.quote(str(path))}")


def _name(labeled: str) -> str:
    """Return a name for the run: that of the file, or of its folder where the file's says nothing."""
    parts = [re.split(r"[.*?\[]", part)[0] for part in labeled.rstrip("/").replace("://", "/").split("/")]
    parts = [re.sub(r"[^\w-]+", "-", part).strip("-") for part in parts]
    telling = [part for part in parts if part and part.lower() not in _GENERIC and not part.startswith("part-")]
    return telling[-1] if telling else "run"


def render(
    found: Guess, labeled: Profile, unlabeled: Profile, test: Profile | None, *, name: str, model: str | None
) -> str:
    """Return the config as YAML with comments."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    from semievol.data.guess import in_order

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"yaml": as_yaml, "line": _line, "shown": _shown}
    gpus = _gpus()
    template = environment.from_string(files("semievol").joinpath("cli", "init.yaml.jinja").read_text("utf-8"))
    return template.render(
        name=name,
        labeled=labeled,
        unlabeled=unlabeled,
        test=test,
        guess=found,
        columns=list(_columns(found)),
        labels=list(in_order(found.labels)),
        most_labels=_MOST_LABELS,
        model=model,
        sizes=_sizes(found, labeled, unlabeled, model, gpus, tested=test is not None),
        gpus=gpus,
        cpus=os.cpu_count() or 1,
    )


def _columns(found: Guess) -> list[tuple[str, str, str]]:
    """Return the keys of data.columns that are not at their defaults, with reasons."""
    from semievol.data import column_names as known

    why = found.why
    if found.kind == "chat":  # which finds them by their usual names
        if found.messages:
            return [] if found.messages in known.CHATS else [("messages", found.messages, "")]
        usual = found.question in known.ASKED and found.answer in known.SAID
        return [] if usual else [("question", found.question, ""), ("answer", found.answer, "")]
    columns = [("question", found.question, why["question"]), ("answer", found.answer, why["answer"])]
    if found.options:
        columns.append(("options", found.options, "lists of options"))
    if found.context:
        columns.append(("context", found.context, "shown above the question"))
    return columns


def _sizes(
    found: Guess, labeled: Profile, unlabeled: Profile, model: str | None, gpus: int, *, tested: bool
) -> dict[str, Any]:
    """Return the numbers of a config that follow from the numbers and lengths of rows."""
    rows = math.ceil(labeled.rows * (1 if tested else 0.8))
    step = 4 * (gpus or 2)  # per_device_batch_size x workers
    batch = step * math.ceil((8 if rows < 1_000 else 16 if rows < 5_000 else 32) / step)
    shown = {found.question, found.context, found.options, *(found.together or ())}
    prompt = sum(
        max((p.columns[n].longest for p in (labeled, unlabeled) if n in p.columns), default=0) for n in shown if n
    )
    said = labeled.columns[found.answer].longest
    listed = sum(len(label.encode()) + 3 for label in found.labels)
    listed = listed if listed < _LISTED_BYTES else 0
    longest = math.ceil((prompt + (0 if found.messages else said) + listed) / _BYTES_PER_TOKEN) + _AROUND
    length = min(max(_power(longest), 256), 8_192)
    window, limit = min(4 * length, 32_768), _window_of(model)
    open_answer = found.kind in ("free_text", "numeric", "open_ended", "chat")
    answer = min(_power(math.ceil(said / _BYTES_PER_TOKEN)), 1_024) if open_answer else 16
    return {
        "batch": batch,
        "length": length,
        "longest": longest,
        "window": min(window, limit or window),
        "window_note": "; at most what the model has" if limit is None else "",
        "answer": answer if answer > 16 else None,  # tokens, where the default is not enough
        "per_answer": found.kind == "classification" and not found.multiple and len(found.labels) <= 100,
    }


def _power(tokens: int) -> int:
    """Return the next power of two."""
    return 1 << max(tokens - 1, 1).bit_length()


def _window_of(model: str | None) -> int | None:
    """Return the context window of a model in a local folder; None if it is not known."""
    file = Path(model or "", "config.json").expanduser()
    if not model or not file.is_file():
        return None
    config = json.loads(file.read_text("utf-8"))
    window = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return window if isinstance(window, int) else None


def _gpus() -> int:
    """Count the GPUs of this machine, without loading torch."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def as_yaml(value: str) -> str:
    """Return a text as a YAML scalar that OmegaConf reads back to the same text."""
    import yaml

    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # no interpolation
    if re.fullmatch(r"(?!\d)[\w/.][\w/.-]*( [\w/.-]+)*", escaped) and escaped.isascii():
        with_type = yaml.safe_load(escaped)
        if with_type == value and escaped.lower() not in ("y", "n"):
            return escaped
    return str(yaml.dump(escaped, default_style='"', allow_unicode=True, width=math.inf)).strip()


def _line(text: str) -> str:
    """Return a text on one line: names of columns hold line breaks, and what else steers a terminal or ends a comment."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


def _shown(column: str, found: Guess) -> str:
    if column == found.question:
        return "{{ question }}"
    return f"{{{{ {column} }}}}" if column.isidentifier() else f"{{{{ row[{json.dumps(column)}] }}}}"


def _said(found: Guess, labeled: Profile, unlabeled: Profile, test: Profile | None) -> list[str]:
    """Return lines that say what was seen, and what was chosen why."""
    from semievol.data.guess import in_order

    lines = [f"labeled    {labeled.pattern}: {labeled.said}", f"unlabeled  {unlabeled.pattern}: {unlabeled.said}"]
    lines.append(
        f"test       {test.pattern}: {test.said}"
        if test
        else "test       none: a fifth of the labeled rows is held back"
    )
    lines.append(f"task       {found.kind}: {found.why['task']} (--kind)")
    for key, flag in (("question", "--question"), ("answer", "--answer")):
        if key in found.why:
            lines.append(f"{key:<10} column {getattr(found, key)}: {found.why[key]} ({flag})")
    if found.labels:
        first = ", ".join(f"{label} {rows:,}" for label, rows in list(in_order(found.labels))[:6])
        more = ", ..." if len(found.labels) > 6 else ""
        lines.append(f"labels     {len(found.labels):,}: {first}{more}")
    if found.oracle:
        lines.append(f"oracle     unlabeled rows have {found.answer} too; it is commented out")
    return [*lines, *(f"note       {note}" for note in found.notes)]

"""Rows in the layouts that people's files have, and what a config must say about them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Make = Callable[[int], Row]
WORDS = (
    "the card has not come",
    "why was I charged twice",
    "how do I change my address",
    "der Betrag fehlt",
    "届きません",
)


def text(i: int) -> str:
    return f"{WORDS[i % 5]}, case {i}"


def save(path: Path, rows: list[Row]) -> str:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


LABELS = ("card", "charge", "address")
# Files as people have them: what a row is, which columns unlabeled rows lack, and what the config must say.
CASES: dict[str, tuple[Make, tuple[str, ...], Row]] = {
    "text,label": (
        lambda i: {"text": text(i), "label": LABELS[i % 3]},
        ("label",),
        {"kind": "classification", "question": "text", "answer": "label", "labels": ["address", "card", "charge"]},
    ),
    "stances": (
        lambda i: {"text": text(i), "stance": ("favor", "against", "None", "NA")[i % 4]},
        ("stance",),
        {"kind": "classification", "answer": "stance", "labels": ["NA", "None", "against", "favor"]},
    ),
    "numbers, some of them missing": (
        lambda i: {"text": text(i), "answer": "None" if i % 9 == 0 else str(i * 7.5)},
        ("answer",),
        {"kind": "numeric", "answer": "answer"},
    ),
    "SQuAD": (
        lambda i: {
            "question": f"What of {i}?",
            "context": text(i),
            "answers": {"text": [f"A{i}"], "answer_start": [0]},
        },
        ("answers",),
        {"kind": "free_text", "question": "question", "answer": "answers", "context": "context"},
    ),
    "MedQA": (
        lambda i: {"question": text(i), "options": {"A": "x", "B": "y"}, "answer_idx": "AB"[i % 2]},
        ("answer_idx",),
        {"kind": "multiple_choice", "question": "question", "options": "options", "answer": "answer_idx"},
    ),
    "ARC": (
        lambda i: {"question": text(i), "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "AB"[i % 2]},
        ("answerKey",),
        {"kind": "multiple_choice", "question": "question", "options": "choices", "answer": "answerKey"},
    ),
    "Kaggle's spam": (
        lambda i: {"v1": ("ham", "ham", "spam")[i % 3], "v2": text(i), "Unnamed: 2": None, "Unnamed: 3": None},
        ("v1",),
        {"kind": "classification", "question": "v2", "answer": "v1", "labels": ["ham", "spam"]},
    ),
    "review,sentiment": (
        lambda i: {"review": text(i), "sentiment": ("positive", "negative")[i % 2]},
        ("sentiment",),
        {"kind": "classification", "question": "review", "answer": "sentiment"},
    ),
    "0 and 1": (
        lambda i: {"id": i, "comment_text": text(i), "is_toxic": i % 2},
        ("is_toxic",),
        {"kind": "classification", "question": "comment_text", "answer": "is_toxic", "labels": ["0", "1"]},
    ),
    "truth values": (
        lambda i: {"message": text(i), "spam": i % 3 == 0},
        ("spam",),
        {"kind": "classification", "question": "message", "answer": "spam"},
    ),
    "stars": (
        lambda i: {"Review Text": text(i), "Rating": 1 + i % 5, "Date": f"2024-01-{1 + i % 28:02}"},
        ("Rating",),
        {"kind": "classification", "question": "Review Text", "answer": "Rating", "labels": ["1", "2", "3", "4", "5"]},
    ),
    "numbers and names of labels": (
        lambda i: {"text": text(i), "label": i % 3, "label_text": LABELS[i % 3]},
        ("label", "label_text"),
        {"kind": "classification", "question": "text", "answer": "label_text", "labels": ["address", "card", "charge"]},
    ),
    "an oracle in the unlabeled rows": (
        lambda i: {"sentence": text(i), "category": LABELS[i % 3]},
        (),
        {"kind": "classification", "question": "sentence", "answer": "category", "oracle": "category"},
    ),
    "title and body": (
        lambda i: {"title": f"Ticket {i}: late", "body": text(i), "intent": LABELS[i % 3]},
        ("intent",),
        {
            "kind": "classification",
            "question": "body",
            "answer": "intent",
            "template": ["title: {{ title }}", "body: {{ question }}"],
        },
    ),
    "premise and hypothesis": (
        lambda i: {"idx": i, "premise": text(i), "hypothesis": f"it is {text(i + 1)}", "label": ("yes", "no")[i % 2]},
        ("label",),
        {"kind": "classification", "question": "hypothesis", "answer": "label", "labels": ["no", "yes"]}
        | {"template": ["premise: {{ premise }}", "hypothesis: {{ question }}"]},
    ),
    "an instruction that all rows have": (
        lambda i: {"instruction": "Name the team.", "input": text(i), "output": LABELS[i % 3]},
        ("output",),
        {"kind": "classification", "question": "input", "answer": "output", "instruction": "Name the team."},
    ),
    "many labels": (
        lambda i: {"text": text(i), "label": f"intent_{i % 20}"},
        ("label",),
        {"kind": "classification", "question": "text", "answer": "label"},
    ),
    "a constant and a unique column": (
        lambda i: {"ticket_id": f"T-{i}", "source": "mail", "words": text(i), "team": LABELS[i % 3]},
        ("team",),
        {"kind": "classification", "question": "words", "answer": "team"},
    ),
    "a label column beside metadata": (
        lambda i: {"text": text(i), "lang": ("en", "de")[i % 2], "queue": LABELS[i % 3]},
        ("queue",),
        {"kind": "classification", "question": "text", "answer": "queue"},
    ),
    "lists of labels": (
        lambda i: {"text": text(i), "tags": [LABELS[i % 3], LABELS[(i + i // 3) % 3]]},
        ("tags",),
        {"kind": "classification", "question": "text", "answer": "tags", "multiple": True},
    ),
    "labels with a sign between them": (
        lambda i: {"text": text(i), "topics": "; ".join(sorted({LABELS[i % 3], f"t{i % 7}", f"t{i % 4}"}))},
        ("topics",),
        {"kind": "classification", "question": "text", "answer": "topics", "multiple": True, "separator": ";"},
    ),
    "labels with a sign inside": (
        lambda i: {"text": text(i), "tags": [("food; drink", "toys")[i % 2], f"t{i % 3}"]},
        ("tags",),
        {"kind": "classification", "question": "text", "answer": "tags", "multiple": True, "separator": "|"},
    ),
    "labels in two spellings": (
        lambda i: {"text": text(i), "label": ("card", "Card", "charge ", "charge")[i % 4]},
        ("label",),
        {"kind": "classification", "question": "text", "answer": "label", "labels": ["Card", "charge"]},
    ),
    "labels that have a comma": (
        lambda i: {"text": text(i), "label": ("Food, drink", "Toys")[i % 2]},
        ("label",),
        {"kind": "classification", "answer": "label", "labels": ["Food, drink", "Toys"]},
    ),
    "options": (
        lambda i: {"question": text(i), "options": ["x", "y", "z"], "answer": "ABC"[i % 3]},
        ("answer",),
        {"kind": "multiple_choice", "question": "question", "answer": "answer", "options": "options"},
    ),
    "choices as text, and the right text": (
        lambda i: {"query": text(i), "choices": json.dumps(["x", "y"]), "gold": "xy"[i % 2], "category": "a"},
        ("gold",),
        {"kind": "multiple_choice", "question": "query", "answer": "gold", "options": "choices"},
    ),
    "numbers": (
        lambda i: {"question": text(i), "answer": str(17 * i + 3)},
        ("answer",),
        {"kind": "numeric", "question": "question", "answer": "answer"},
    ),
    "worked solutions": (
        lambda i: {"question": text(i), "answer": f"There are {i} and {i}, so 2 x {i} = {2 * i}.\n#### {2 * i}"},
        ("answer",),
        {"kind": "numeric", "question": "question", "answer": "answer"},
    ),
    "prices": (
        lambda i: {"description": text(i), "price": f"${i}.99"},
        ("price",),
        {"kind": "numeric", "question": "description", "answer": "price"},
    ),
    "short answers": (
        lambda i: {"question": text(i), "context": f"A passage about city {i}.", "answer": f"City {i}", "type": "wh"},
        ("answer",),
        {"kind": "free_text", "question": "question", "answer": "answer", "context": "context"},
    ),
    "several right answers": (
        lambda i: {"question": text(i), "answers": [f"City {i}", f"Town {i}"]},
        ("answers",),
        {"kind": "free_text", "question": "question", "answer": "answers"},
    ),
    "long answers": (
        lambda i: {"question": text(i), "answer": f"{text(i)}. " * 9, "topic": LABELS[i % 3]},
        ("answer",),
        {"kind": "open_ended", "question": "question", "answer": "answer"},
    ),
    "summaries": (
        lambda i: {"document": text(i) * 20, "summary": f"{text(i)}, in short: " * 3},
        ("summary",),
        {"kind": "open_ended", "question": "document", "answer": "summary"},
    ),
    "messages": (
        lambda i: {"messages": [{"role": "user", "content": text(i)}, {"role": "assistant", "content": "Yes."}]},
        (),
        {"kind": "chat"},
    ),
    "ShareGPT": (
        lambda i: {"id": i, "conversations": [{"from": "human", "value": text(i)}, {"from": "gpt", "value": "Yes."}]},
        (),
        {"kind": "chat"},
    ),
    "messages under a name of their own": (
        lambda i: {
            "exchange": json.dumps([{"role": "user", "content": text(i)}, {"role": "assistant", "content": "Ok"}])
        },
        (),
        {"kind": "chat", "messages": "exchange"},
    ),
    "Alpaca": (
        lambda i: {"instruction": text(i), "input": "", "output": f"{text(i)} is no concern. " * 4},
        ("output",),
        {"kind": "chat"},
    ),
    "Alpaca, short": (
        lambda i: {"instruction": f"Translate word {i}", "input": "" if i % 2 else "Haus", "output": f"house {i}"},
        ("output",),
        {"kind": "chat"},
    ),
    "requests that differ, and labels": (
        lambda i: {"instruction": f"Is it about {i} cards?", "input": text(i), "output": ("yes", "no")[i % 2]},
        ("output",),
        {"kind": "classification", "question": "input", "answer": "output"}
        | {"template": ["instruction: {{ instruction }}", "input: {{ question }}"]},
    ),
    "prompt and completion": (
        lambda i: {"prompt": text(i), "completion": f"{text(i)} is no concern. " * 4},
        ("completion",),
        {"kind": "chat"},
    ),
    "Stack Overflow": (
        lambda i: {
            "Id": i,
            "Title": f"How to {i}",
            "Body": text(i),
            "Tags": f"<a{i}><b>",
            "Y": ("HQ", "LQ_CLOSE")[i % 2],
        },
        ("Y",),
        {
            "kind": "classification",
            "question": "Body",
            "answer": "Y",
            "template": ["Title: {{ Title }}", "Body: {{ question }}"],
        },
    ),
    "MATH": (
        lambda i: {"problem": text(i), "level": f"Level {i % 5}", "type": "Algebra", "solution": f"So \\boxed{{{i}}}."},
        ("solution",),
        {"kind": "numeric", "question": "problem", "answer": "solution"},
    ),
    "German names": (
        lambda i: {"Nr": i, "Anliegen": text(i), "Kategorie": LABELS[i % 3]},
        ("Kategorie",),
        {"kind": "classification", "question": "Anliegen", "answer": "Kategorie"},
    ),
    "an empty label column in the unlabeled rows": (
        lambda i: {"text": text(i), "team": LABELS[i % 3] if i < 60 else "", "lang": ("en", "de")[i % 2]},
        (),
        {"kind": "classification", "question": "text", "answer": "team"},
    ),
    "BoolQ": (
        lambda i: {"question": text(i), "passage": f"{text(i)}. " * 5, "answer": i % 3 == 0},
        ("answer",),
        {"kind": "classification", "question": "question", "answer": "answer", "context": "passage"},
    ),
    "toxic comments": (
        lambda i: {"comment_text": text(i), "toxic": i % 2, "severe_toxic": i // 7 % 2, "insult": i // 3 % 2},
        ("toxic", "severe_toxic", "insult"),
        {"kind": "classification", "question": "comment_text", "answer": "toxic"},
    ),
    "prompt and a label": (
        lambda i: {"prompt": text(i), "completion": (" positive", " negative")[i % 2]},
        ("completion",),
        {"kind": "classification", "question": "prompt", "answer": "completion"},
    ),
}

"""One prompt everywhere: training, labeling, evaluation, the endpoint and `preview` render a row to the same tokens."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("transformers")
pytest.importorskip("fastapi")

from semievol.config import Collaborator, EmbeddingConfig, PromptConfig
from semievol.data import storage
from semievol.data.tables import LABELED, LABELED_RETRIEVED, PSEUDO_LABELED, RETRIEVED, to_record, to_row
from semievol.engines import Completion, PromptTooLong
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.templates import ChatSettings, source
from semievol.engines.vllm import PromptBatches
from semievol.inference.labeler import Labeler, Labeling, Panel, Pass
from semievol.method.prompts import Messages, Prompts
from semievol.preview.look import Preview, look
from semievol.preview.requests import Request
from semievol.preview.tokens import Renderer
from semievol.retrieval.search import INDEX, Searcher, build_index
from semievol.serving.answer import answer
from semievol.serving.protocol import Question
from semievol.tasks import KINDS, Row, Task
from semievol.trainers import render
from tests.support.configs import run_config
from tests.support.tokenizer import byte_level

WINDOW, MAX_TOKENS = 4_000, 16
CHAT = (
    "<|begin|>{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
THINK = CHAT.replace(
    "{% endif %}",
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
BEGUN = CHAT.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")  # each prompt opens a thought
# The models: the template of each, None where it has none, and whether it is to think.
MODELS: dict[str, tuple[str | None, ChatSettings]] = {
    "with system": (CHAT, ChatSettings()),
    "refuses system": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT,
        ChatSettings(),
    ),
    "drops system": (CHAT.replace("in messages %}", "in messages if m.role != 'system' %}"), ChatSettings()),
    "thinking off": (THINK, ChatSettings()),
    "thinking on": (THINK, ChatSettings(thinking="on")),
    "thinking begun, off": (BEGUN, ChatSettings()),
    "thinking begun, on": (BEGUN, ChatSettings(thinking="on")),
    "no template": (None, ChatSettings()),
    "no template, chatml": (None, ChatSettings(source("chatml"))),
    "another template": (CHAT, ChatSettings(source("alpaca"))),
}


# For each kind of task its settings, and three rows; their answers are as a file has them.
def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


OPTIONS = ["it rises", "it falls", "it stays"]
ROWS: dict[str, tuple[dict[str, Any], list[Row]]] = {
    "multiple_choice": (
        {},
        [
            Row("What does the price do?", OPTIONS, "Prices were 3 % up. 价格上涨", "it rises"),
            Row("And the rate?", OPTIONS[:2], None, "B"),
            Row("And the cost?", OPTIONS, "Nothing changed. " * 40 + "Nothing.", "C"),
        ],
    ),
    "numeric": (
        {},
        [Row("2 + 2?", [], None, "4"), Row("Half of 3?", [], "Maths.", "1.5"), Row("1 %?", [], None, "1%")],
    ),
    "free_text": (
        {},
        [Row(f"Who wrote {book}?", [], None, who) for book, who in zip("XYZ", ("Ann", "Bo", "Cy"), strict=True)],
    ),
    "classification": (
        {"labels": {"rise": "it goes up", "fall": "", "上涨": "rises"}},
        [Row(f"What of {what}?", [], None, label) for what, label in zip("XYZ", ("Rise", "fall", "上涨"), strict=True)],
    ),
    "chat": (
        {},
        [
            Row("Hello?", [], None, "Hi, how can I help?"),
            Row(
                "And now?",
                [],
                None,
                "Wait. " * 3 + "Wait.",
                [{"role": "system", "content": "Be kind."}, *turns("Why?", "So.")],
            ),
            Row("Then?", [], None, "Go.", turns("One <|end|>?", "1", "Two?", "2")),
        ],
    ),
    "open_ended": (
        {},
        [Row(f"Explain {what}.", [], "In short.", f"A {what} is round.") for what in ("wheel", "ball", "ring")],
    ),
}
PROMPTS = {
    "as it is": PromptConfig(),
    "own": PromptConfig(
        system="You know <|end|> markets.", instruction="Say it.", template="Q: {{ question }}\n{{ instruction }}"
    ),
}


def rows_of(kind: str) -> tuple[Task, list[dict[str, Any]]]:
    """A task of a kind, and its labeled rows as ingest would write them."""
    assert kind in ROWS, f"add rows of kind {kind} to ROWS"
    settings, given = ROWS[kind]
    task = KINDS[kind](**settings)
    answers = [task.gold(row.answer or "", row) for row in given]
    assert all(answers), f"{kind}: {answers}"
    return task, [to_record(replace(row, answer=a)) | {"stratum": None} for row, a in zip(given, answers, strict=True)]


@dataclass
class Chatting:
    """A model: the folder of its tokenizer, and how it is spoken to."""

    path: str
    chat: ChatSettings

    @property
    def template(self) -> ChatTemplate:
        return ChatTemplate(load_tokenizer(self.path), self.chat.template, self.chat.thinking)


class Asked:
    """An engine that notes the tokens it is asked for, as VLLMEngine makes them, and cycles through given responses."""

    def __init__(self, model: Chatting, responses: list[str], window: int) -> None:
        self._window = window
        self._batches = PromptBatches(load_tokenizer(model.path), model.chat)
        self._responses = responses
        self.prompts: list[list[int]] = []
        self.figures: dict[str, float] = {}

    async def generate(self, messages: Messages, *, max_tokens: int, **_: Any) -> list[Completion]:
        ids = await self._batches.tokenize(messages)
        if len(ids) + max_tokens > self._window:
            raise PromptTooLong(f"{len(ids)} tokens")
        self.prompts.append(ids)
        text = self._responses[len(self.prompts) % len(self._responses)]
        return [Completion(text, 0.1, 0.1, 2, len(ids))]

    def close(self) -> None:
        pass


def labeled(
    model: Chatting, prompts: Prompts, who: Collaborator, record: dict[str, Any], folder: str, window: int = WINDOW
) -> tuple[list[int], dict[str, Any]]:
    """The tokens that a collaborator's prompt has, and the row that comes out."""
    engine = Asked(model, [prompts.task.respond(record["answer"] or "A")], window)
    panel = Panel(prompts, (who,), folder, EmbeddingConfig(), max_tokens=MAX_TOKENS)
    silent = SimpleNamespace(remote=lambda *_: None)
    progress: Any = SimpleNamespace(add=silent, report=silent, stop=silent)
    labeler = Labeler(engine, Labeling(Pass("m", None, (0,), last=True), panel, PSEUDO_LABELED, "k"), progress)  # type: ignore[arg-type]
    batch = pa.Table.from_pylist([{name: record.get(name) for name in RETRIEVED.names}], RETRIEVED)
    [row] = asyncio.run(labeler.answer(batch)).to_pylist()
    return engine.prompts[-1] if engine.prompts else [], row


def trained(
    model: Chatting, prompts: Prompts, record: dict[str, Any], source: render.Source, most: int = WINDOW
) -> dict[str, Any]:
    """The training row of a record, as the trainer writes it."""
    batch = pa.Table.from_pylist([record], LABELED_RETRIEVED)
    row: dict[str, Any] = render._messages(batch, source, prompts, model.path, model.chat, most).to_pylist()[0]
    return row


def served(model: Chatting, prompts: Prompts, record: dict[str, Any], examples: list[Row]) -> list[int]:
    """The tokens of /v1/answer: what the route sends, through the model's server, as vLLM renders it."""
    bodies: list[dict[str, Any]] = []

    class Backend:
        async def neighbors(self, rows: list[Row]) -> list[list[tuple[Row, float]]]:
            return [[(row, 0.5) for row in examples]]

        async def respond(self, name: str, path: str, body: bytes) -> tuple[int, bytes]:
            bodies.append(json.loads(body))
            said = {"message": {"content": prompts.task.respond(record["answer"])}, "logprobs": {"content": []}}
            return 200, json.dumps({"choices": [said]}).encode()

    serving = {"in_context": bool(examples), "neighbors": len(examples)}
    config = run_config(task=prompts.task, prompt=prompts.config, serving=serving, evaluate={"mode": "sample"})
    fields: dict[str, Any] = {"question": record["question"], "options": record["options"]}
    if prompts.task.conversational:
        fields = {"messages": [*record["history"], *turns(record["question"])]}
    asyncio.run(answer(Backend(), config, [Question(**fields, context=record["context"])], ["m"]))  # type: ignore[arg-type]
    # As serving/model_server.py asks vLLM's server, and as that renders: to text, and then to tokens.
    tokenizer, template = load_tokenizer(model.path), model.template
    messages = template.request(bodies[0])["messages"]
    text = tokenizer.apply_chat_template(
        messages, chat_template=template.source, tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def previewed(
    model: Chatting, prompts: Prompts, row: Row, examples: list[Row], scratch: Path
) -> tuple[list[int], list[int]]:
    """The tokens that `preview` shows of labeling and of training."""
    about = {"base": model.path, "thinking": model.chat.thinking}
    if model.chat.template:
        (scratch / "template").write_text(model.chat.template)
        about["chat_template"] = str(scratch / "template")
    config = run_config(model=about, engine={"max_model_len": WINDOW})
    renderer = Renderer(prompts, [row], config, str(scratch))
    asks = Request("labeling, x", ("unlabeled",), model.path, max_tokens=MAX_TOKENS)
    trains = Request("warm-up", ("labeled",), model.path, max_length=WINDOW)
    ids: list[Any] = []
    for request in (asks, trains):
        [fitted] = renderer.fit(request, [row], [examples])
        assert fitted.sent
        ids.append(fitted.sent.parts)
    return ids[0], ids[1]


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chatting:
    """A model of the table."""
    monkeypatch.setattr("semievol.preview.tokens.model_limit", lambda _: WINDOW)
    template, chat = MODELS[request.param]
    special, markup = ["<|begin|>", "<|start|>", "<|end|>"], ["<think>", "</think>"]
    byte_level(template, special, markup, eos="<|end|>").save_pretrained(tmp_path / "model")
    return Chatting(str(tmp_path / "model"), chat)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model", MODELS, indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_one_prompt(kind: str, model: Chatting, prompt: str, tmp_path: Path) -> None:
    task, records = rows_of(kind)
    prompts = Prompts(task, PROMPTS[prompt])
    folder = str(tmp_path / "labeled")
    storage.write_table(f"{folder}/part-0.parquet", pa.Table.from_pylist(records, LABELED_RETRIEVED))
    solved = {record["row_id"]: to_row(record) for record in records}
    asked: dict[tuple[int, ...], set[str]] = {}
    for record in records:
        others = [each["row_id"] for each in records if each is not record]
        near = record | {"neighbor_ids": others, "neighbor_scores": [0.5] * len(others)}
        for k in (0, len(others)):
            examples = [solved[i] for i in others[:k]]
            taught = trained(model, prompts, near, render.Source(folder, context="knn" if k else "none", k=k))
            start = next(i for i, label in enumerate(taught["labels"]) if label != -100)
            who = Collaborator(name="x", k=k, temperature=0.0)
            answered, came_out = labeled(model, prompts, who, near, folder)
            shown, whole = previewed(model, prompts, solved[record["row_id"]], examples, tmp_path)
            assert taught["input_ids"][:start] == answered + model.template.lead
            assert answered == shown
            assert served(model, prompts, record, examples) == answered
            assert whole == taught["input_ids"] and taught["labels"][start:] == whole[start:]
            assert came_out["prompt_tokens"] == len(shown) and came_out["answer"] is not None
            asked.setdefault(tuple(answered), set()).add(record["question"])
    assert len(asked) == 2 * len(records) and all(len(questions) == 1 for questions in asked.values())


@pytest.mark.parametrize("model", ["with system"], indirect=True)
def test_the_counts_of_preview_are_those_of_the_run(model: Chatting, tmp_path: Path) -> None:
    """Rows of all lengths: whole, without examples, without context, with half a question, and too long."""
    lines = ["question,options,answer,passage"]
    for n in range(24):
        words, passage = f"what is {n} " * (1 + n % 5 * 8), f"passage {n} " * (n % 4 * 10)
        option = "long " * 80 if n == 5 else "odd"
        lines.append(f'{words},"[""even"", ""{option}""]",{"AB"[n % 2]},{passage}')
    for name, part in (("labeled", lines[:13]), ("unlabeled", lines[:1] + lines[13:]), ("test", lines[:2])):
        (tmp_path / f"{name}.csv").write_text("\n".join(part))
    files = {name: f"{tmp_path}/{name}.csv" for name in ("labeled", "unlabeled", "test")}
    config = run_config(
        data=files | {"columns": {"context": "passage"}, "exclude_test_overlap": False},
        model={"base": model.path},
        engine={"max_model_len": 440},
        retrieve={"by": "bm25", "k": 2},
        warmup={"context": "mixed", "k": 2, "max_length": 400},
        finetune={"max_length": 300},
        label={"collaborators": [{"name": "alone", "k": 0}, {"name": "shown", "k": 2, "prompt": "careful"}]},
    )
    seen = look(config, 1, 100)
    counts = {measured.request.name: measured.sent for measured in seen.measured}
    prompts = Prompts(config.task, config.prompt)

    splits = {name: split.records for name, split in seen.splits.items()}
    folder, index = f"{tmp_path}/rows/labeled", f"{tmp_path}/rows/index"
    table = pa.Table.from_pylist([{n: r.get(n) for n in LABELED.names} for r in splits["labeled"]], LABELED)
    storage.write_table(f"{folder}/part-0.parquet", table)
    build_index(folder, index, config.embedding, config.retrieve)
    with_neighbors = storage.read_table(f"{index}/rows").to_pylist()
    shows = render.Source(f"{index}/rows", context="mixed", k=2)
    taught = {r["row_id"]: trained(model, prompts, r, shows, 400) for r in with_neighbors}
    again = {r["row_id"]: trained(model, prompts, r, render.Source(folder), 300) for r in with_neighbors}
    for name, rendered in (("warm-up", taught), ("fine-tuning", again)):
        ours = {i: n for i, n in counts[name].items() if i in rendered}
        assert ours == {i: len(row["input_ids"]) for i, row in rendered.items() if not row["quarantine_reason"]}

    searcher = Searcher(f"{index}/{INDEX}", config.embedding, config.retrieve)
    for who in config.label.collaborators:
        spent = {}
        for record in splits["unlabeled"]:
            ids, scores = searcher.nearest([to_row(record)], 2, np.array([record["row_id"]]))
            near = record | {"neighbor_ids": ids[0], "neighbor_scores": scores[0]}
            _, row = labeled(model, prompts, who, near, folder, window=440)
            spent[record["row_id"]] = row["prompt_tokens"]
        assert counts[f"labeling, {who.name}"] == {i: n for i, n in spent.items() if n}

    every = {what: n for measured in seen.measured for what, n in measured.lost.items()}
    assert set(every) == {"solved examples", "context", "the question's beginning"}
    assert sum(measured.too_long for measured in seen.measured) > 0
    assert sum(row["quarantine_reason"] is not None for row in taught.values()) == _of(seen, "warm-up").too_long > 0


def _of(seen: Preview, name: str) -> Any:
    return next(measured for measured in seen.measured if measured.request.name == name)

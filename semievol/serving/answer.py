"""The task route `/v1/answer`: return the parsed answer to a question, with its confidence."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException

from semievol.config import RunConfig
from semievol.data import chats
from semievol.data.tables import BadRow, text_cleaner
from semievol.method.confidence import from_distribution
from semievol.method.prompts import Messages, Prompts
from semievol.serving.backend import CHAT, Backend, Refused, Unavailable
from semievol.serving.protocol import Answer, Neighbor, Question, Share
from semievol.tasks import Row

_LIKELIEST = 10  # answers with their shares in a response


async def answer(
    backend: Backend,
    config: RunConfig,
    questions: list[Question],
    models: list[str],
    styles: Mapping[str, str] | None = None,
) -> list[Answer]:
    """Answer each question with its (resolved) model, by exact scores or greedily, in the style that `styles` has for it.

    As evaluation does, so that this route has the accuracy of the run; if that had examples, this needs
    `serving.in_context`. A prompt over the window is refused; evaluation cuts it.
    """
    rows = [_row(config, place, question) for place, question in enumerate(questions)]
    nearest = await backend.neighbors(rows)
    jobs = zip(questions, rows, models, nearest, strict=True)
    try:
        async with asyncio.TaskGroup() as group:  # if one fails, the others are cancelled
            running = [group.create_task(_answer(backend, config, styles or {}, *job)) for job in jobs]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [done.result() for done in running]


def _row(config: RunConfig, place: int, question: Question) -> Row:
    """Return a question as a row, its texts as ingest reads them; one that the kind of task cannot take is refused."""
    try:
        row = _read(config, question)
    except (BadRow, chats.NoChat) as error:
        raise HTTPException(400, f"question {place}: {error}") from None
    if problem := config.task.problem(row):
        raise HTTPException(400, f"question {place}: {problem}")
    return row


def _read(config: RunConfig, question: Question) -> Row:
    task, clean = config.task, text_cleaner(config.limits.max_row_bytes)
    options = [] if "options" in task.ignores else [clean(text, "options") for text in question.options]
    fields = {name: clean(question.fields.get(name), f"fields.{name}") for name in config.prompt.columns}
    row = Row("", options, clean(question.context, "context") or None, None, fields=fields)
    if question.messages is None:
        row.question = clean(question.question, "question")
    elif task.conversational:
        chat = chats.conversation([message.model_dump() for message in question.messages], clean)
        row.question, row.history = chat.question, chat.history
    else:
        raise BadRow(f"messages are for task.kind: chat. For {task.kind} send question")
    if not row.question or "" in options:
        raise BadRow("a text of it is empty")
    return row


async def _answer(
    backend: Backend,
    config: RunConfig,
    styles: Mapping[str, str],
    question: Question,
    row: Row,
    model: str,
    nearest: list[tuple[Row, float]],
) -> Answer:
    task, prompts = config.task, Prompts(config.task, config.prompt)
    examples = [labeled for labeled, _ in nearest] if config.serving.in_context else []
    messages = prompts.messages(row, examples=examples, style=styles.get(model, "plain"))
    choices = task.choices(row) if config.evaluate_how["mode"] == "score" else None
    shares: dict[str, float] = {}
    if choices is not None:
        responses = list(map(task.respond, choices))
        shares = dict(zip(choices, await _scores(backend, model, messages, responses), strict=True))
        said = from_distribution(model, shares)
        parsed, entropy = said.answer, said.nll or 0.0
        response = task.respond(parsed or "")
    else:
        response, entropy = await _respond(backend, config, model, messages)
        parsed = task.parse(response, row)
    confidence = math.exp(-entropy)
    threshold = config.serving.min_confidence if question.min_confidence is None else question.min_confidence
    abstained = parsed is not None and confidence < threshold
    given = None if abstained else parsed
    ranked = sorted(shares.items(), key=lambda item: -item[1])[:_LIKELIEST]
    return Answer(
        answer=given,
        text=task.in_words(given, row) if given is not None else None,
        confidence=round(confidence, 6),
        entropy=round(entropy, 6),
        distribution=[Share(answer=a, text=task.in_words(a, row), share=round(share, 6)) for a, share in ranked],
        abstained=abstained,
        response=response,
        model=model,
        examples_in_prompt=bool(examples),
        neighbors=[
            Neighbor(question=r.question, answer=task.in_words(r.answer or "", r), similarity=round(cosine, 4))
            for r, cosine in nearest
        ],
    )


async def _scores(backend: Backend, model: str, messages: Messages, responses: list[str]) -> list[float]:
    try:
        return await backend.score(model, messages, responses)
    except Refused as refused:
        raise HTTPException(400, f"The model refuses the question: {refused}") from None


async def _respond(backend: Backend, config: RunConfig, model: str, messages: Messages) -> tuple[str, float]:
    """Return the response and its entropy: the mean negative log-probability of its tokens (paper, section 3.3)."""
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": max(config.evaluate.max_tokens, config.task.longest),
        "logprobs": True,
    }
    status, content = await backend.respond(model, CHAT, json.dumps(body, ensure_ascii=False).encode())
    if status == 400:  # the window may leave less than that; without a limit the model answers in what it leaves
        del body["max_tokens"]
        status, content = await backend.respond(model, CHAT, json.dumps(body, ensure_ascii=False).encode())
    if status == 400:
        reason = json.loads(content).get("error", {}).get("message", "no reason given")
        raise HTTPException(400, f"The model refuses the question: {reason}")
    if status != 200:
        raise Unavailable
    choice = json.loads(content)["choices"][0]
    logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
    return choice["message"]["content"] or "", -sum(logprobs) / max(len(logprobs), 1)

"""The task route `/v1/answer`: return the parsed answer to a question, with its confidence."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from fastapi import HTTPException

from semievol.config import RunConfig
from semievol.data import chats
from semievol.method.prompts import Messages, Prompts
from semievol.serving.backend import CHAT, Backend, Unavailable
from semievol.serving.protocol import Answer, Neighbor, Question
from semievol.tasks import Row


async def answer(backend: Backend, config: RunConfig, questions: list[Question], models: list[str]) -> list[Answer]:
    """Answer greedily, each question with its (resolved) model.

    As evaluation does, so that this route has the accuracy of the run; if that had examples, this needs
    `serving.in_context`. A prompt over the window is refused; evaluation cuts it.
    """
    rows = [_row(config, place, question) for place, question in enumerate(questions)]
    nearest = await backend.neighbors(rows)
    jobs = zip(questions, rows, models, nearest, strict=True)
    try:
        async with asyncio.TaskGroup() as group:  # if one fails, the others are cancelled
            running = [group.create_task(_answer(backend, config, *job)) for job in jobs]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [done.result() for done in running]


def _row(config: RunConfig, place: int, question: Question) -> Row:
    """Return a question as a row; one that the kind of task cannot take is refused."""
    row, problem = Row(question.question or "", question.options, question.context, None), None
    if question.messages is not None and not config.task.conversational:
        problem = f"messages are for task.kind: chat. For {config.task.kind} send question"
    elif question.messages is not None:
        try:
            chat = chats.conversation(
                [m.model_dump() for m in question.messages], lambda text, _: str(text or "").strip()
            )
            row.question, row.history = chat.question, chat.history
        except chats.NoChat as error:
            problem = str(error)
    if problem := problem or config.task.problem(row):
        raise HTTPException(400, f"question {place}: {problem}")
    return row


async def _answer(
    backend: Backend,
    config: RunConfig,
    question: Question,
    row: Row,
    model: str,
    nearest: list[tuple[Row, float]],
) -> Answer:
    task = config.task
    examples = [labeled for labeled, _ in nearest] if config.serving.in_context else []
    response, entropy = await _respond(
        backend, config, model, Prompts(task, config.prompt).messages(row, examples=examples)
    )
    confidence = math.exp(-entropy)
    threshold = config.serving.min_confidence if question.min_confidence is None else question.min_confidence
    parsed = task.parse(response, row)
    abstained = parsed is not None and confidence < threshold
    given = None if abstained else parsed
    return Answer(
        answer=given,
        text=task.in_words(given, row) if given is not None else None,
        confidence=round(confidence, 6),
        entropy=round(entropy, 6),
        abstained=abstained,
        response=response,
        model=model,
        examples_in_prompt=bool(examples),
        neighbors=[
            Neighbor(question=r.question, answer=task.in_words(r.answer or "", r), similarity=round(cosine, 4))
            for r, cosine in nearest
        ],
    )


async def _respond(backend: Backend, config: RunConfig, model: str, messages: Messages) -> tuple[str, float]:
    """Return the response and its entropy: the mean negative log-probability of its tokens (paper, section 3.3)."""
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": config.evaluate.max_tokens,
        "logprobs": True,
    }
    status, content = await backend.respond(model, CHAT, json.dumps(body, ensure_ascii=False).encode())
    if status == 400:
        reason = json.loads(content).get("error", {}).get("message", "no reason given")
        raise HTTPException(400, f"The model refuses the question: {reason}")
    if status != 200:
        raise Unavailable
    choice = json.loads(content)["choices"][0]
    logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
    return choice["message"]["content"] or "", -sum(logprobs) / max(len(logprobs), 1)

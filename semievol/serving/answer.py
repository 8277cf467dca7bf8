"""The task route `/v1/answer`: return the parsed answer to a question, with its confidence."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from fastapi import HTTPException

from semievol.config import RunConfig
from semievol.method.prompts import Messages, Prompts
from semievol.serving.backend import CHAT, Backend, Unavailable
from semievol.serving.protocol import Answer, Neighbor, Question
from semievol.tasks import Row


async def answer(backend: Backend, config: RunConfig, questions: list[Question], models: list[str]) -> list[Answer]:
    """Answer greedily, each question with its (resolved) model.

    As evaluation does, so that this route has the accuracy of the run; if that had examples, this needs
    `serving.in_context`. A prompt over the window is refused; evaluation cuts it.
    """
    rows = [Row(q.question, q.options, q.context, None) for q in questions]
    for place, row in enumerate(rows):
        if problem := config.task.problem(row):
            raise HTTPException(400, f"question {place}: {problem}")
    nearest = await backend.neighbors(rows)
    jobs = zip(questions, rows, models, nearest, strict=True)
    try:
        async with asyncio.TaskGroup() as group:  # if one fails, the others are cancelled
            running = [group.create_task(_answer(backend, config, *job)) for job in jobs]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [done.result() for done in running]


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
        "max_tokens": max(config.evaluate.max_tokens, config.task.longest),
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

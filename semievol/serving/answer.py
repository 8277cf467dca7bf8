"""The task route: a question with options in, the parsed answer with its confidence out."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from fastapi import HTTPException

from semievol.config import RunConfig
from semievol.method import prompts
from semievol.serving.backend import CHAT, Backend, Unavailable
from semievol.serving.protocol import Answer, Neighbor, Question
from semievol.tasks import Row, Task


async def answer(backend: Backend, config: RunConfig, questions: list[Question], models: list[str]) -> list[Answer]:
    """Answer as evaluation does: greedily, so that the run's accuracy is that of this route (with `serving.in_context`, if
    it was evaluated with examples). A prompt over the window is refused, where evaluation cuts it.

    The entropy is the run's own measure, the mean negative log-probability of the response (paper, section 3.3); the
    confidence is exp(-entropy).

    Args:
        models: the resolved model of each question.
    """
    task = config.task
    rows = [Row(q.question, q.options, q.context, None) for q in questions]
    for place, row in enumerate(rows):
        if problem := task.problem(row):
            raise HTTPException(400, f"question {place}: {problem}")
    nearest = await backend.neighbors(rows)
    asked = zip(questions, rows, models, nearest, strict=True)
    try:
        async with asyncio.TaskGroup() as group:  # when one fails, the others need not go on
            running = [group.create_task(_one(backend, config, task, *each)) for each in asked]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [done.result() for done in running]


async def _one(
    backend: Backend,
    config: RunConfig,
    task: Task,
    question: Question,
    row: Row,
    model: str,
    nearest: list[tuple[Row, float]],
) -> Answer:
    examples = [labeled for labeled, _ in nearest] if config.serving.in_context else []
    response, entropy = await _respond(backend, config, model, prompts.messages(task, row, examples=examples))
    confidence = math.exp(-entropy)
    threshold = config.serving.min_confidence if question.min_confidence is None else question.min_confidence
    found = task.parse(response, row)
    abstained = found is not None and confidence < threshold
    given = None if abstained else found
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


async def _respond(backend: Backend, config: RunConfig, model: str, messages: prompts.Messages) -> tuple[str, float]:
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": config.evaluate.max_tokens,
        "logprobs": True,
    }
    status, content = await backend.respond(model, CHAT, json.dumps(body, ensure_ascii=False).encode())
    if status == 400:
        said = json.loads(content).get("error", {}).get("message", "it gives no reason")
        raise HTTPException(400, f"The model refuses the question: {said}")
    if status != 200:
        raise Unavailable
    choice = json.loads(content)["choices"][0]
    logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
    return choice["message"]["content"] or "", -sum(logprobs) / max(len(logprobs), 1)

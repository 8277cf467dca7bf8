"""Fine-tuning at an OpenAI-compatible endpoint, through its files and fine-tuning API: upload, create, poll.

A job costs money, so one fine-tuning makes one job, whatever breaks off in between. `job.json` in the stage's folder
says how far it has come: a random token and the uploaded file, then the job. The token is in the job too (`_find`).
"""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from semievol import config as configuration
from semievol.config import EngineConfig
from semievol.data import storage
from semievol.engines.endpoint import ApiEndpoint
from semievol.errors import UserError
from semievol.runtime.progress import Emit
from semievol.trainers.base import NAMED, TrainSpec

if TYPE_CHECKING:
    from openai import APIError, OpenAI
    from openai.types.fine_tuning import FineTuningJob

RECORD = "job.json"
_TIMEOUT_S = 600.0  # of a request; a file is uploaded in one
_CREATIONS = 3  # tries
_TOKEN = "semievol"  # the key in a job's metadata


class OpenAITrainer:
    """Fine-tunes models that are names at an endpoint. The name of the run stands in the metadata of its jobs.

    Such an API trains on all turns of the assistant, unless their weight is 0.
    """

    needs_tokens = False
    pool = ""
    writes: ClassVar = {"model": NAMED}

    def __init__(
        self, config: configuration.OpenAITrainer, engine: EngineConfig, run: str, *, all_turns: bool = False
    ) -> None:
        self._config, self._engine, self._run, self._all_turns = config, engine, run, all_turns

    def train(self, stage: str, spec: TrainSpec, row_count: int, emit: Emit) -> dict[str, Any]:
        """Fine-tune `spec.base`, and return the metrics; resumes what was begun."""
        from openai import APIError, OpenAI

        config, engine, spec = self._config, self._engine, spec.settled(row_count)
        variable, name = config.api_key_env or engine.api_key_env, "trainer.api_key_env"
        endpoint = ApiEndpoint(config.endpoint or engine.endpoint, variable, name)
        client = OpenAI(**endpoint.client(timeout_s=_TIMEOUT_S, retries=engine.retries))
        record = storage.join(spec.out, RECORD)
        try:
            begun = _begin(client, spec, record, self._all_turns)
            if "job" not in begun:
                begun["job"] = _create(client, begun, spec, config, self._run)
                storage.write_text(record, json.dumps(begun))
            job = _wait(client, begun["job"], stage, emit, config.poll_s)
        except APIError as error:
            raise _refused(error, stage, spec, endpoint, record) from None
        if job.status != "succeeded" or not job.fine_tuned_model:
            storage.delete_file(record)
            why = job.error.message if job.error and job.error.message else "without a reason"
            problem = f"stage {stage}: job {job.id} at {endpoint.url} {job.status}: {why}"
            raise UserError(f"{problem}. Correct that, and run the same command again: it makes a new job")
        storage.write_text(storage.join(spec.out, NAMED), json.dumps({"model": job.fine_tuned_model} | begun))
        last = _last_step(client, job.id)
        return {
            "model": job.fine_tuned_model,
            "job": job.id,
            "steps": last.get("step"),
            "loss": last.get("train_loss"),
            "epochs": spec.config.epochs,
            "tokens": job.trained_tokens,
            "train_seconds": (job.finished_at or job.created_at) - job.created_at,
        }


def _refused(error: APIError, stage: str, spec: TrainSpec, endpoint: ApiEndpoint, record: str) -> UserError:
    """Return what an error of the API means for the run."""
    from openai import APIStatusError

    if isinstance(error, APIStatusError) and error.status_code in (400, 413, 422):
        storage.delete_file(record)  # there is no job, and the file is of no use
        problem = f"does not take the training file or the job for '{spec.base}': {endpoint.said(error)}"
        return UserError(f"stage {stage}: {endpoint.url} {problem}. Correct that, and run the same command again")
    problem = f"stage {stage}: trainer.endpoint: {endpoint.problem(error, spec.base)}"
    way_out = f"A job that was made goes on there; run the same command again, and it is found by {record}"
    return UserError(f"{problem}. {way_out}")


def _begin(client: OpenAI, spec: TrainSpec, record: str, all_turns: bool) -> dict[str, str]:
    """Return the content of job.json; upload the rows first where there is none."""
    if storage.exists(record):
        return dict(json.loads(storage.read_text(record)))
    token = uuid.uuid4().hex[:12]
    with tempfile.TemporaryDirectory(prefix="semievol-upload-") as scratch:
        path = Path(scratch) / "rows.jsonl"
        _write_jsonl(spec.rows, path, all_turns)
        with path.open("rb") as content:
            file = client.files.create(file=(f"{token}.jsonl", content), purpose="fine-tune")
        begun = {"token": token, "sha256": storage.sha256(str(path)), "file": file.id}
    storage.write_text(record, json.dumps(begun))
    return begun


def _write_jsonl(rows: str, path: Path, all_turns: bool) -> None:
    """Write the usable rows in the chat format of the API, with a few batches in memory at a time."""
    from pyarrow import dataset

    filesystem, folder = storage.resolve(rows)
    parts, usable = dataset.dataset(folder, filesystem=filesystem), dataset.field("quarantine_reason").is_null()
    with path.open("w", encoding="utf-8", newline="") as out:
        for batch in parts.to_batches(["prompt", "completion"], usable, batch_size=1024):
            for row in batch.to_pylist():
                prompt = row["prompt"] if all_turns else [_unweighted(message) for message in row["prompt"]]
                print(json.dumps({"messages": [*prompt, *row["completion"]]}, ensure_ascii=False), file=out)


def _unweighted(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"weight": 0} if message["role"] == "assistant" else message


def _create(
    client: OpenAI, begun: dict[str, str], spec: TrainSpec, config: configuration.OpenAITrainer, run: str
) -> str:
    """Return the id of the one job of this token. A request may have been heard although its answer was lost."""
    from openai import (
        APIConnectionError,
        BadRequestError,
        InternalServerError,
        RateLimitError,
        UnprocessableEntityError,
    )

    bodies = _bodies(begun, spec, config, run)
    body, refused = next(bodies), None
    jobs: Any = client.with_options(max_retries=0).fine_tuning.jobs
    failures: list[APIError] = []
    while not (found := _find(client, begun["token"])):
        if len(failures) == _CREATIONS:
            raise failures[-1]
        try:
            job: FineTuningJob = jobs.create(**body)
            return job.id
        except (BadRequestError, UnprocessableEntityError) as error:
            refused = refused or error
            if (less := next(bodies, None)) is None:
                raise refused from None
            body = less
        except (APIConnectionError, InternalServerError, RateLimitError) as error:
            failures.append(error)
            time.sleep(config.poll_s)
    return found


def _bodies(
    begun: dict[str, str], spec: TrainSpec, config: configuration.OpenAITrainer, run: str
) -> Iterator[dict[str, Any]]:
    """Yield the request for a job, then what endpoints get that refuse it: without what not all of them know."""
    hyperparameters: dict[str, Any] = {"n_epochs": int(spec.config.epochs), "batch_size": spec.config.batch_size}
    if config.learning_rate_multiplier is not None:
        hyperparameters["learning_rate_multiplier"] = config.learning_rate_multiplier
    suffix = f"{config.suffix}-{begun['token']}"
    least = {"model": spec.base, "training_file": begun["file"], "suffix": suffix}
    method = {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}
    metadata, seed = {"metadata": {_TOKEN: begun["token"], "run": run}}, {"seed": spec.seed}
    yield least | method | seed | metadata
    yield least | method | seed
    yield least | method
    yield least | {"hyperparameters": hyperparameters}  # of the API before `method`


def _find(client: OpenAI, token: str) -> str | None:
    """Return the job with this token in its metadata or, where an endpoint keeps none, at the end of its suffix."""
    for job in client.fine_tuning.jobs.list(limit=100):
        suffix = getattr(job, "user_provided_suffix", None) or ""  # not in the client's types
        if (job.metadata or {}).get(_TOKEN) == token or suffix.endswith(token):
            return job.id
    return None


def _wait(client: OpenAI, job_id: str, stage: str, emit: Emit, poll_s: float) -> FineTuningJob:
    """Return the job when it has ended."""
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        last = _last_step(client, job_id)
        loss = f", loss {last['train_loss']:.3f}" if isinstance(last.get("train_loss"), float) else ""
        emit(stage, int(last.get("step") or 0), int(last.get("total_steps") or 0), f"job {job_id} {job.status}{loss}")
        time.sleep(poll_s)


def _last_step(client: OpenAI, job_id: str) -> dict[str, Any]:
    """Return the newest metrics among a job's events ("step", "total_steps", "train_loss"), or nothing."""
    from openai import NotFoundError

    try:
        events = client.fine_tuning.jobs.list_events(job_id, limit=20).data  # the newest first
    except NotFoundError:
        return {}  # an endpoint that tells no events
    return next((event.data for event in events if isinstance(event.data, dict) and "step" in event.data), {})

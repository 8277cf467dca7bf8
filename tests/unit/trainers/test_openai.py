"""Fine-tuning through the API, against a server on loopback: one job, whatever breaks off in between."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol import config, trainers
from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import TRAINING
from semievol.engines.endpoint import variables
from semievol.errors import UserError
from semievol.tasks.chat import Chat
from semievol.trainers import openai as finetuning_api
from semievol.trainers.base import TrainSpec, trained
from tests.support.openai_server import Fault, OpenAIServer

MINIMAL = "{name: x, model: {base: gpt-4o-mini}, data: {labeled: l, unlabeled: u, test: t}}"
API = ("engine.kind=openai", "trainer.kind=openai")


def configured(*overrides: str) -> RunConfig:
    return config.loads(MINIMAL, [*API, *overrides], "c.yaml")


def exchange(i: int) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"question {i} é"}]
    return {"row_id": i, "prompt": prompt, "completion": [{"role": "assistant", "content": "Answer: A"}]}


class Training:
    """A stage folder with rows to train on; each `run` is a new attempt at it."""

    def __init__(self, folder: Path, server: OpenAIServer, *overrides: str) -> None:
        self.config = configured(
            f"engine.endpoint={server.url}", "trainer.poll_s=0.001", "engine.retries=1", *overrides
        )
        rows = [exchange(i) | {"quarantine_reason": "too long" if i == 3 else None} for i in range(10)]
        schema = pa.schema([*TRAINING, ("quarantine_reason", pa.string())])
        for part in range(2):
            table = pa.Table.from_pylist(rows[part * 5 : part * 5 + 5], schema=schema)
            storage.write_table(f"{folder}/rows/{part}.parquet", table)
        self.folder = folder
        self.spec = TrainSpec("gpt-4o-mini", str(folder), self.config.warmup, seed=5)
        self.emitted: list[tuple[Any, ...]] = []

    def run(self) -> dict[str, Any]:
        trainer = trainers.load(self.config)
        return trainer.train("warmup", self.spec, 9, lambda *progress: self.emitted.append(progress))


@pytest.fixture
def training(tmp_path: Path, openai_server: OpenAIServer) -> Training:
    return Training(tmp_path, openai_server)


def test_upload_job_and_model(tmp_path: Path, openai_server: OpenAIServer) -> None:
    training = Training(tmp_path, openai_server, "trainer.learning_rate_multiplier=2", "warmup.epochs=3")
    soon = {"retry-after-ms": "1"}
    faults = {"POST /files": Fault(500, headers=soon), "GET /fine_tuning/jobs/job-0": Fault(429, headers=soon)}
    openai_server.fault = lambda path, body: faults.pop(path, None)
    metrics = training.run()
    assert metrics["model"] == "ft:gpt-4o-mini:job-0" == trained(str(tmp_path))
    assert (metrics["steps"], metrics["loss"], metrics["tokens"]) == (4, 0.2, 1234)
    [uploaded] = openai_server.files.values()  # whole, although it was sent twice
    sent = [json.loads(line) for line in uploaded.decode().splitlines()]
    assert sent == [{"messages": [*exchange(i)["prompt"], *exchange(i)["completion"]]} for i in range(10) if i != 3]
    [job] = openai_server.jobs.values()
    assert (job["model"], job["training_file"], job["seed"]) == ("gpt-4o-mini", "file-0", 5)
    parameters = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 2.0}
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": parameters}}
    assert re.fullmatch(r"semievol-[0-9a-f]{12}", job["suffix"])
    assert training.emitted[0] == ("warmup", 1, 4, "job job-0 running, loss 0.500")
    assert json.loads((tmp_path / "model.json").read_text())["job"] == "job-0"
    assert training.run()["model"] == metrics["model"]  # the manifest was not written: nothing is made again
    assert (len(openai_server.files), len(openai_server.jobs)) == (1, 1)


@pytest.mark.parametrize("loss", ["last", "all"])
def test_earlier_turns_of_a_chat_have_no_weight_unless_all_are_taught(
    tmp_path: Path, openai_server: OpenAIServer, loss: str
) -> None:
    training = Training(tmp_path, openai_server)
    training.config = training.config.model_copy(update={"task": Chat(loss=loss)})
    turns = ["system", "user", "assistant", "user"]
    prompt = [{"role": role, "content": role} for role in turns]
    rows = [exchange(0) | {"prompt": prompt, "quarantine_reason": None}]
    schema = pa.schema([*TRAINING, ("quarantine_reason", pa.string())])
    storage.delete(f"{tmp_path}/rows")
    storage.write_table(f"{tmp_path}/rows/0.parquet", pa.Table.from_pylist(rows, schema=schema))
    training.run()
    [uploaded] = openai_server.files.values()
    sent = json.loads(uploaded)["messages"]
    assert [(m["role"], m.get("weight")) for m in sent] == [
        *(("system", None), ("user", None), ("assistant", None if loss == "all" else 0), ("user", None)),
        ("assistant", None),
    ]
    assert [m["content"] for m in sent] == [*turns, "Answer: A"]


@pytest.mark.parametrize("breaks_at", ["POST /files", "POST /fine_tuning/jobs", "GET /fine_tuning/jobs/job-0"])
def test_an_endpoint_that_goes_away_costs_no_second_job(
    training: Training, openai_server: OpenAIServer, breaks_at: str
) -> None:
    openai_server.fault = lambda path, body: Fault(503, headers={"retry-after-ms": "1"}) if path == breaks_at else None
    with pytest.raises(
        UserError, match=r"stage warmup: trainer.endpoint: http://.* is unavailable .*run the same command again"
    ):
        training.run()
    openai_server.fault = lambda path, body: None
    assert training.run()["model"] == "ft:gpt-4o-mini:job-0"
    assert (len(openai_server.files), len(openai_server.jobs)) == (1, 1)


def test_a_job_whose_creation_was_not_heard_is_found(training: Training, openai_server: OpenAIServer) -> None:
    other = {"status": "succeeded", "fine_tuned_model": "ft:other", "model": "gpt", "training_file": "f", "seed": 0}
    openai_server.add_jobs(5, other)
    openai_server.lose_created_jobs = True
    assert training.run()["model"] == "ft:gpt-4o-mini:job-5"
    assert openai_server.count("POST /fine_tuning/jobs") == 1
    assert len(openai_server.jobs) == 6


@pytest.mark.parametrize("keeps", ["metadata", "suffix"])
@pytest.mark.parametrize("moment", ["before the job is written", "while it is watched"])
def test_a_crash_makes_no_second_job(
    training: Training, openai_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, moment: str, keeps: str
) -> None:
    class Crash(BaseException):
        """As abrupt as a kill: no handler of ours sees it."""

    def crash(*arguments: Any) -> Any:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        if moment == "while it is watched":
            patch.setattr(finetuning_api, "_wait", crash)
        else:
            written = storage.write_text
            patch.setattr(storage, "write_text", lambda uri, text: crash() if '"job"' in text else written(uri, text))
        training.run()
    [job] = openai_server.jobs.values()
    job["user_provided_suffix" if keeps == "metadata" else "metadata"] = None
    assert training.run()["model"] == "ft:gpt-4o-mini:job-0"
    assert (len(openai_server.files), openai_server.count("POST /fine_tuning/jobs")) == (1, 1)


def test_what_the_api_refuses_and_what_fails_there_is_said(training: Training, openai_server: OpenAIServer) -> None:
    def refuse(path: str, body: dict[str, Any]) -> Fault | None:
        return Fault(400, "needs at least 10 examples") if path == "POST /fine_tuning/jobs" else None

    openai_server.fault = refuse
    with pytest.raises(UserError, match=r"stage warmup: .* for 'gpt-4o-mini': .*needs at least 10 examples"):
        training.run()
    openai_server.fault = lambda path, body: Fault(401, "no")
    with pytest.raises(UserError, match=r"does not accept the key in OPENAI_API_KEY .*trainer.api_key_env"):
        training.run()
    openai_server.fault = lambda path, body: None
    openai_server.failing_jobs = "the training file has a bad line"
    with pytest.raises(UserError, match=r"job job-0 at .* failed: the training file has a bad line"):
        training.run()
    openai_server.failing_jobs = ""
    assert training.run()["model"] == "ft:gpt-4o-mini:job-1"  # a failed job is over: the next attempt makes another


@pytest.mark.parametrize("unknown", [("metadata",), ("seed",), ("metadata", "seed"), ("metadata", "method")])
@pytest.mark.parametrize("fault", [Fault(400, "Bad Request"), Fault(422, "Extra inputs are not permitted")])
def test_an_endpoint_that_knows_an_older_api_gets_a_job(
    training: Training, openai_server: OpenAIServer, unknown: tuple[str, ...], fault: Fault
) -> None:
    openai_server.fault = lambda path, body: fault if any(name in body for name in unknown) else None
    assert training.run()["model"] == "ft:gpt-4o-mini:job-0"
    [job] = openai_server.jobs.values()
    hyperparameters = job["hyperparameters"] or job["method"]["supervised"]["hyperparameters"]
    assert hyperparameters == {"n_epochs": 20, "batch_size": 8}  # auto, of few rows
    assert training.run()["model"] == "ft:gpt-4o-mini:job-0" and len(openai_server.jobs) == 1


def test_the_config_of_both() -> None:
    assert variables(configured()) == ["OPENAI_API_KEY"]
    assert variables(configured("trainer.api_key_env=OTHER")) == ["OPENAI_API_KEY", "OTHER"]
    assert variables(configured("engine.endpoint=http://localhost:8/v1")) == []
    configured("warmup.batch_size=3")  # no workers to divide it among
    for override, message in [
        ("trainer.kind=deepspeed", "trainer.kind: deepspeed with engine.kind: openai"),
        ("engine.kind=vllm", "trainer.kind: openai with engine.kind: vllm"),
        ("trainer.kind=magic", "trainer.kind: must be one of deepspeed, openai, is 'magic'"),
        ("finetune.epochs=1.5", "finetune.epochs: must be a whole number for trainer.kind: openai, is 1.5"),
        ("trainer.endpoint=here", "trainer.endpoint: 'here' is not the base URL"),
        ("trainer.poll_s=0", "trainer.poll_s: must be greater than 0, is 0"),
    ]:
        with pytest.raises(UserError, match=re.escape(message)):
            configured(override)

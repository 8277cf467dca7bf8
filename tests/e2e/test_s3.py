"""A run that knows no disk: data, base model and run folder in a bucket, workers with the real engine and trainer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from semievol.data import storage
from semievol.demo import base_model
from semievol.demo.data import write_dataset
from semievol.runs.folder import Manifest
from semievol.runs.rounds import STAGES

pytestmark = pytest.mark.timeout(1200)
DEMO = Path(base_model.__file__).with_name("demo.yaml")


def semievol(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semievol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture(scope="module")
def settings(s3: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The demo, small: a few rows, and a base model that has hardly been trained."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "data", seed=0, labeled=36, unlabeled=60, test=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_model, "STEPS", 20)
        base_model.build_base_model(folder / "base", seed=0)
    for part in ("data", "base"):
        storage.upload(str(folder / part), f"{s3}/demo/{part}")
    return [
        f"storage={s3}/demo",
        f"data.labeled={s3}/demo/data/labeled.jsonl",
        f"data.unlabeled={s3}/demo/data/unlabeled/*.jsonl",
        f"data.test={s3}/demo/data/test.jsonl",
        f"model.base={s3}/demo/base",
        "label.rows_per_commit=20",
        "warmup.epochs=1",
        "resources.train.workers=1",  # two of them train in test_run
        "select.min_agreement=0",
        "limits.max_bad_fraction=1",  # such a model says much that is no answer
    ]


def test_a_run_in_a_bucket_and_the_same_command_again(s3: str, settings: list[str]) -> None:
    # As far as each kind of stage has run once; what comes after selection is training and labeling again.
    done = semievol("run", str(DEMO), *settings, "--until", "select", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    run = f"{s3}/demo/run"
    assert summary == json.loads(storage.read_text(f"{run}/summary.json"))
    stages = STAGES[: [stage.name for stage in STAGES].index("select") + 1]
    for stage in stages:
        folder = f"{run}/round-0/{stage.name}"
        manifest = Manifest.from_json(storage.read_text(f"{folder}/manifest.json"))
        manifest.rows.check(stage.name)
        for file in manifest.files:
            (entry,) = storage.find(f"{folder}/{file['path']}")
            assert entry.size == file["size"]
    unlabeled = storage.read_table(f"{run}/round-0/ingest/unlabeled")["row_id"]
    labeled = storage.read_table(f"{run}/round-0/label/rows")["row_id"]
    assert sorted(labeled.to_pylist()) == sorted(unlabeled.to_pylist())
    assert storage.exists(f"{run}/round-0/warmup/model/model.safetensors")
    assert json.loads(storage.read_text(f"{run}/status.json"))["state"] == "stopped as asked"
    resolved = storage.read_text(f"{run}/config.yaml")
    assert "testtest" not in resolved and str(Path.home()) not in resolved

    again = semievol("run", str(DEMO), *settings, "--until", "select")
    assert again.stdout.count("done before") == len(stages), again.stdout + again.stderr
    verified = semievol("verify", run)
    assert verified.returncode == 0 and ": all as it was written" in verified.stdout, verified.stdout + verified.stderr


@pytest.mark.parametrize(
    ("setting", "environment", "message"),
    [
        ("storage=s3://no-such-bucket/runs", {}, "s3://no-such-bucket: there is no such bucket"),
        ("data.test=s3://no-such-bucket/test.csv", {}, "s3://no-such-bucket: there is no such bucket"),
        ("seed=0", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "check the network and AWS_ENDPOINT_URL"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_said_before_anything_starts(
    settings: list[str], setting: str, environment: dict[str, str], message: str
) -> None:
    done = semievol("run", str(DEMO), *settings, "name=other", setting, **environment)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "s3://" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout

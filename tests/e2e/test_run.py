"""The whole loop on real parts, on rows of the Financial PhraseBank: vLLM, DeepSpeed with two workers, FAISS.

Data, base model and run folder are in a bucket, so no stage gets by with a disk. That a disk will do as well is shown
by tests/chaos and tests/ray.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from semievol.cli import main
from semievol.data import storage
from semievol.runs.folder import Manifest
from tests.support.command import semievol
from tests.support.shared import MODEL, needs_model, needs_rows, write_rows

pytestmark = [needs_rows, needs_model, pytest.mark.timeout(1200)]
STAGES = [
    *("ingest", "index", "warmup", "retrieve", "evaluate/base", "evaluate/warm"),
    *("label", "select", "finetune", "evaluate/evolved", "evaluate/compare"),
]
SECRET = "testtest"  # AWS_SECRET_ACCESS_KEY of the fixture s3


def written(uri: str) -> dict[str, tuple[int, int]]:
    """The files of a folder, with their sizes and when each was written."""
    return {file.uri: (file.size, file.mtime_ns) for file in storage.find(uri)}


def select_rows(run: str) -> list[dict[str, Any]]:
    return storage.read_table(f"{run}/round-0/select/rows").sort_by("row_id").to_pylist()


@pytest.fixture(scope="module")
def config(s3: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("fpb")
    write_rows(folder, labeled=64, unlabeled=120, test=48)
    storage.upload(str(folder), f"{s3}/data")
    storage.upload(str(MODEL), f"{s3}/base")
    (folder / "c.yaml").write_text(
        f"""
        name: fpb
        storage: {s3}/runs
        model: {{base: {s3}/base}}
        data:
          labeled: {s3}/data/labeled.csv
          unlabeled: {s3}/data/unlabeled*.csv
          test: {s3}/data/test.csv
          columns: {{oracle: answer}}
        prompt:
          system: You read the news of companies.
          template: |-
            Text: {{{{ question }}}}
            {{% for option in options %}}{{{{ "ABC"[loop.index0] }}}}. {{{{ option }}}}
            {{% endfor %}}{{{{ instruction }}}}
        warmup: {{epochs: 1, learning_rate: 2e-3}}
        label:
          rows_per_commit: 10
          collaborators:
            - {{name: plain, k: 0}}
            - {{name: careful, k: 1, prompt: careful}}
            - {{name: nearest, k: 3, kind: neighbors}}
        finetune: {{epochs: 1, learning_rate: 2e-3, start_from: warm}}
        """
    )
    return str(folder / "c.yaml")


@dataclass(frozen=True)
class Killed:
    """A run whose driver was killed in mid-labeling."""

    run: str
    committed: int  # rows
    parts: dict[str, tuple[int, int]]  # files of labeled rows, as `written` has them


@pytest.fixture(scope="module")
def killed(s3: str, config: str) -> Killed:
    run = f"{s3}/runs/fpb"
    driver = subprocess.Popen(
        [sys.executable, "-m", "semievol", "run", config], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    label, deadline = f"{run}/round-0/label", time.monotonic() + 600
    commits = f"{label}/_commits/rows/*[0-9].parquet"
    while not storage.find(commits) and time.monotonic() < deadline:
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(5)  # its workers notice and leave
    return Killed(run, storage.count_rows(commits), written(f"{label}/rows"))


@pytest.fixture(scope="module")
def finished(killed: Killed, config: str) -> str:
    """The folder of the run that the same command has taken to its end."""
    done = semievol("run", config, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary == json.loads(storage.read_text(f"{killed.run}/summary.json"))
    for stage in STAGES:
        assert stage in done.stdout
    assert done.stdout.count("done before") == STAGES.index("label")
    return killed.run


def test_a_killed_driver_is_resumed_without_labeling_committed_rows_again(finished: str, killed: Killed) -> None:
    # That the rows are those of an undisturbed run is shown in tests/ray, on an engine whose floats do not depend on what
    # else is in the batch, as those of vLLM do.
    unlabeled = storage.count_rows(f"{finished}/round-0/ingest/unlabeled")
    print(f"committed before the kill: {killed.committed} of {unlabeled} rows")
    assert 0 < killed.committed < unlabeled, "the kill came too late to show anything"
    now = written(f"{finished}/round-0/label/rows")
    kept = [file for file, was in killed.parts.items() if now.get(file) == was]
    assert sum(map(storage.count_rows, kept)) >= killed.committed  # not written again


def test_every_stage_is_recorded_and_nothing_is_lost(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in STAGES:
        folder = f"{finished}/round-0/{stage}"
        manifest = Manifest.from_json(storage.read_text(f"{folder}/manifest.json"))
        manifest.rows.check(stage)
        sizes = {uri: size for uri, (size, _) in written(folder).items()}
        for file in manifest.files:
            assert sizes[f"{folder}/{file['path']}"] == file["size"]
    capsys.readouterr()
    main(["verify", finished])
    assert ": all as it was written" in capsys.readouterr().out
    summary = json.loads(storage.read_text(f"{finished}/summary.json"))
    assert {row["stage"] for row in summary["stages"]} == set(STAGES)
    assert all(0 < model["accuracy"] <= 1 for model in summary["models"].values())
    assert summary["pseudo_labels"]["selected_accuracy"] > 1 / 3
    readme = storage.read_text(f"{finished}/README.md")
    for text in ("## Data", "duplicates folded", "McNemar", "| evolved |"):
        assert text in readme
    assert json.loads(storage.read_text(f"{finished}/status.json"))["state"] == "finished"
    resolved = storage.read_text(f"{finished}/config.yaml")
    assert SECRET not in resolved and str(Path.home()) not in resolved


def test_training_shows_the_system_prompt_and_the_template(finished: str) -> None:
    for stage in ("warmup", "finetune"):
        for row in storage.read_table(f"{finished}/round-0/{stage}/rows").to_pylist():
            system, user = row["prompt"]
            assert system == {"role": "system", "content": "You read the news of companies."}
            listed = "A. negative\nB. neutral\nC. positive\nAnswer with the letter of the correct option."
            assert user["content"].startswith("Text: ") and user["content"].endswith(f"\n{listed}")


def test_pseudo_labels_have_what_the_method_needs(finished: str) -> None:
    ingested = storage.read_table(f"{finished}/round-0/ingest/unlabeled")
    rows = select_rows(finished)
    assert [row["row_id"] for row in rows] == sorted(ingested["row_id"].to_pylist())
    assert sum(row["selected"] for row in rows) == -(-len(rows) // 2)  # theta = 0.5, rounded up
    limit = max(row["token_entropy"] for row in rows if row["selected"])
    assert all(row["token_entropy"] >= limit for row in rows if not row["selected"])
    assert any(row["justified"] for row in rows)
    assert all(len(row["responses"]) == 3 for row in rows)
    for row in rows:
        for response in row["responses"]:
            assert response["error"] is None and response["nll"] >= 0 and response["token_entropy"] >= 0
        assert row["vote_entropy"] >= 0
    assert "oracle" not in rows[0]


def test_the_evolved_model_loads_everywhere_and_answers_in_its_template(finished: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert not [uri for uri in written(finished) if uri.endswith((".bin", ".pt"))]  # safetensors, no pickles
    trained = {stage: storage.local_copy(f"{finished}/round-0/{stage}") for stage in ("warmup", "finetune")}
    tokenizer = AutoTokenizer.from_pretrained(f"{trained['finetune']}/model")
    merged = AutoModelForCausalLM.from_pretrained(f"{trained['finetune']}/model", dtype=torch.float32)
    warm = AutoModelForCausalLM.from_pretrained(f"{trained['warmup']}/model", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(warm, f"{trained['finetune']}/adapter")
    row = select_rows(finished)[0]
    from semievol.data.tables import to_row
    from semievol.method.prompts import Prompts
    from semievol.tasks.multiple_choice import MultipleChoice

    task = MultipleChoice()
    prompt = tokenizer.apply_chat_template(
        Prompts(task).messages(to_row(row)), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        one, other = (model(**prompt).logits[0, -1].softmax(-1) for model in (merged, adapted))
    assert torch.allclose(one, other, atol=0.05)  # the merged weights are stored in bf16, as the base was
    generated = merged.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert task.parse(tokenizer.decode(generated, skip_special_tokens=True), to_row(row)) is not None
    assert tokenizer.eos_token_id in generated.tolist()  # it knows when to stop
    # vLLM has loaded the same folder in the stage evaluate/evolved.
    assert storage.exists(f"{finished}/round-0/evaluate/evolved/manifest.json")


def test_the_same_command_again_does_nothing(finished: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*overrides: str) -> dict[str, str]:
        capsys.readouterr()
        main(["plan", config, *overrides, "--json"])
        stages = json.loads(capsys.readouterr().out.splitlines()[-1])["stages"]
        return {stage["stage"]: stage["state"] for stage in stages}

    before = written(f"{finished}/round-0")
    done = semievol("run", config)
    assert done.stdout.count("done before") == len(STAGES), done.stdout + done.stderr
    assert written(f"{finished}/round-0") == before
    assert planned() == dict.fromkeys(STAGES, "done")
    states = planned("select.theta=0.3")
    assert states["label"] == states["evaluate/base"] == "done"
    assert states["select"] == states["finetune"] == states["evaluate/evolved"] == "to do"


@pytest.mark.parametrize(
    ("setting", "endpoint", "message"),
    [
        ("storage=s3://no-such-bucket/runs", None, "s3://no-such-bucket: there is no such bucket"),
        ("data.test=s3://no-such-bucket/test.csv", None, "s3://no-such-bucket: there is no such bucket"),
        ("storage=s3://far-away/runs", "http://127.0.0.1:9", "check the network and AWS_ENDPOINT_URL"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_said_before_anything_starts(
    config: str,
    setting: str,
    endpoint: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    capsys.readouterr()
    with pytest.raises(SystemExit) as refused:
        main(["run", config, "name=other", setting])
    said = capsys.readouterr()
    assert refused.value.code == 2, said.err
    assert message in said.err and "s3://" in said.err
    assert "Traceback" not in said.err and not said.out

"""The whole loop on real parts: vLLM, DeepSpeed with two workers, FAISS, on rows of the Financial PhraseBank."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from semievol.data import storage
from semievol.runs.folder import Manifest
from semievol.runs.rounds import STAGES

SHARED = Path(__file__).parents[3] / "shared"
DATA, MODEL = SHARED / "data" / "fpb", SHARED / "models" / "tiny-lm"
pytestmark = [
    pytest.mark.skipif(not DATA.exists(), reason=f"needs {DATA}, which is not here"),
    pytest.mark.timeout(1200),
]
SIZES = {"labeled": 96, "unlabeled": 200, "test": 96}


def semievol(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semievol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def select_rows(run: Path) -> list[dict]:
    return storage.read_table(f"{run}/round-0/select/rows").sort_by("row_id").to_pylist()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fpb")
    for split, size in SIZES.items():
        with (DATA / f"{split}.csv").open(newline="") as source, (folder / f"{split}.csv").open("w", newline="") as out:
            rows = list(csv.reader(source))
            csv.writer(out).writerows(rows[: size + 1])
    (folder / "c.yaml").write_text(
        f"""
        name: fpb
        storage: {folder}/runs
        model: {{base: {MODEL}}}
        data:
          labeled: {folder}/labeled.csv
          unlabeled: {folder}/unlabeled.csv
          test: {folder}/test.csv
          columns: {{oracle: answer}}
        warmup: {{epochs: 1, learning_rate: 2e-3}}
        label:
          rows_per_commit: 20
          collaborators:
            - {{name: plain, k: 0}}
            - {{name: careful, k: 1, prompt: careful}}
            - {{name: nearest, k: 3, kind: neighbors}}
        finetune: {{epochs: 1, learning_rate: 2e-3, start_from: warm}}
        """
    )
    return folder / "c.yaml"


@dataclass(frozen=True)
class Killed:
    """A run whose driver was killed in mid-labeling."""

    run: Path
    committed: int  # rows
    parts: dict[Path, int]  # files of labeled rows, and when each was written


@pytest.fixture(scope="module")
def killed(config: Path) -> Killed:
    run = config.parent / "runs" / "fpb"
    driver = subprocess.Popen(
        [sys.executable, "-m", "semievol", "run", str(config)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    label = run / "round-0" / "label"
    commits, deadline = str(label / "_commits" / "rows" / "*[0-9].parquet"), time.monotonic() + 600
    while not storage.find(commits) and time.monotonic() < deadline:
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(5)  # its workers notice and leave
    parts = {file: file.stat().st_mtime_ns for file in (label / "rows").iterdir()}
    return Killed(run, storage.count_rows(commits), parts)


@pytest.fixture(scope="module")
def finished(killed: Killed, config: Path) -> Path:
    """The folder of the run that the same command has taken to its end."""
    done = semievol("run", str(config), "--json", check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary == json.loads((killed.run / "summary.json").read_text())
    for stage in STAGES:
        assert stage.name in done.stdout
    assert done.stdout.count("done before") == 6  # all before labeling
    return killed.run


def test_a_killed_driver_is_resumed_without_labeling_committed_rows_again(finished: Path, killed: Killed) -> None:
    # That the rows are those of an undisturbed run is shown in tests/ray, on an engine whose floats do not depend on what
    # else is in the batch, as those of vLLM do.
    unlabeled = storage.count_rows(f"{finished}/round-0/ingest/unlabeled")
    print(f"committed before the kill: {killed.committed} of {unlabeled} rows")
    assert 0 < killed.committed < unlabeled, "the kill came too late to show anything"
    kept = [file for file, written in killed.parts.items() if file.exists() and file.stat().st_mtime_ns == written]
    assert sum(storage.count_rows(str(file)) for file in kept) >= killed.committed  # not written again


def test_every_stage_is_recorded_and_nothing_is_lost(finished: Path) -> None:
    for stage in STAGES:
        folder = finished / "round-0" / stage.name
        manifest = Manifest.from_json((folder / "manifest.json").read_text())
        manifest.rows.check(stage.name)
        for file in manifest.files:
            assert (folder / file["path"]).stat().st_size == file["size"]
    verified = semievol("verify", str(finished))
    assert ": all as it was written" in verified.stdout
    summary = json.loads((finished / "summary.json").read_text())
    assert {row["stage"] for row in summary["stages"]} == {stage.name for stage in STAGES}
    assert all(0 < model["accuracy"] <= 1 for model in summary["models"].values())
    assert summary["pseudo_labels"]["selected_accuracy"] > 1 / 3
    readme = (finished / "README.md").read_text()
    for text in ("## Data", "duplicates folded", "McNemar", "| evolved |"):
        assert text in readme
    status = json.loads((finished / "status.json").read_text())
    assert status["state"] == "finished"


def test_pseudo_labels_have_what_the_method_needs(finished: Path) -> None:
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


def test_the_evolved_model_loads_everywhere_and_answers_in_its_template(finished: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished / "round-0" / "finetune"
    assert not list(finished.rglob("*.bin")) and not list(finished.rglob("*.pt"))  # safetensors, no pickles
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    merged = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    warm = AutoModelForCausalLM.from_pretrained(finished / "round-0" / "warmup" / "model", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(warm, folder / "adapter")
    row = select_rows(finished)[0]
    from semievol.data.tables import to_row
    from semievol.method.prompts import messages
    from semievol.tasks.multiple_choice import MultipleChoice

    task = MultipleChoice()
    prompt = tokenizer.apply_chat_template(
        messages(task, to_row(row)), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        one, other = (model(**prompt).logits[0, -1].softmax(-1) for model in (merged, adapted))
    assert torch.allclose(one, other, atol=0.05)  # the merged weights are stored in bf16, as the base was
    generated = merged.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert task.parse(tokenizer.decode(generated, skip_special_tokens=True), to_row(row)) is not None
    assert tokenizer.eos_token_id in generated.tolist()  # it knows when to stop
    # vLLM has loaded the same folder in the stage evaluate/evolved.
    assert (finished / "round-0" / "evaluate" / "evolved" / "manifest.json").exists()


def test_the_same_command_again_does_nothing(finished: Path, config: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (finished / "round-0").rglob("*") if file.is_file()}
    done = semievol("run", str(config))
    assert done.stdout.count("done before") == len(STAGES)
    assert {file: file.stat().st_mtime_ns for file in (finished / "round-0").rglob("*") if file.is_file()} == before
    planned = json.loads(semievol("plan", str(config), "--json").stdout.splitlines()[-1])
    assert {stage["state"] for stage in planned["stages"]} == {"done"}
    changed = json.loads(semievol("plan", str(config), "select.theta=0.3", "--json").stdout.splitlines()[-1])
    states = {stage["stage"]: stage["state"] for stage in changed["stages"]}
    assert states["label"] == states["evaluate/base"] == "done"
    assert states["select"] == states["finetune"] == states["evaluate/evolved"] == "to do"

"""The command line: its surface, its messages, its weight. Runs that need Ray are in tests/e2e."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from semievol.cli import app, main

SURFACE = {
    "study": {"study", "overrides", "env", "as_json"},
    "serve": {"run", "overrides", "models", "host", "port", "keys"},
    "promote": {"run", "round_number", "force"},
    "rollback": {"run"},
    "select": {"run", "overrides", "as_json"},
    "key": {"name", "file"},
    "run": {"config", "overrides", "until", "env", "as_json"},
    "plan": {"config", "overrides", "as_json"},
    "demo": {"folder", "seed", "as_json"},
    "submit": {"config", "overrides", "address", "wait", "until", "env", "allow_unauthenticated"},
    "jobs": {"address"},
    "logs": {"job_id", "address"},
    "stop": {"job_id", "address"},
}
ROW = '"[""x"", ""y""]"'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A sound little project; each test breaks one thing."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "unlabeled").mkdir()
    for name in ("labeled.csv", "test.csv", "unlabeled/0.csv"):
        (tmp_path / name).write_text(f"question,options,answer\nq,{ROW},A\n")
    (tmp_path / "c.yaml").write_text(
        f"""
        name: x
        storage: {tmp_path}/runs
        model: {{base: {tmp_path}/model}}
        data: {{labeled: {tmp_path}/labeled.csv, unlabeled: {tmp_path}/unlabeled, test: {tmp_path}/test.csv}}
        """
    )
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def test_the_surface_is_frozen() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert {name: {p.name for p in c.params} for name, c in commands.items()} == SURFACE


def test_help_teaches_and_loads_nothing_heavy() -> None:
    code = "import sys; from semievol.cli import main; main(sys.argv[1:])"
    check = "; print(sorted({'ray', 'torch', 'pyarrow', 'numpy', 'omegaconf', 'transformers'} & set(sys.modules)))"
    for command in SURFACE:
        done = subprocess.run(
            [sys.executable, "-c", code + check, command, "--help"], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip().endswith("[]")
        if command != "demo":
            assert "Example" in done.stdout


@pytest.mark.parametrize("job", ["evolve", "label", "evaluate"])
def test_the_job_entry_points_are_the_run_command(job: str) -> None:
    file = Path(__file__).parents[2] / "jobs" / f"{job}.py"
    done = subprocess.run([sys.executable, str(file), "--help"], capture_output=True, text=True, check=True)
    assert "CONFIG.yaml" in done.stdout and "--until" in done.stdout


def test_plan_starts_nothing_and_shows_every_stage(project: Path) -> None:
    # In a process of its own: beside tests that use Ray, this one has it imported already.
    plan = (
        "import sys; from semievol.cli import main; "
        f"main(['plan', '{project}/c.yaml', 'select.theta=0.3', '--json']); assert 'ray' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", plan], capture_output=True, text=True, check=True).stdout
    for stage in ("ingest", "warmup", "retrieve", "label", "select", "finetune", "evaluate/evolved", "to do"):
        assert stage in out
    assert out.strip().splitlines()[-1].startswith("{")
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (["select.tehta=0.3"], "unknown key 'select.tehta'; did you mean 'select.theta'"),
        (["model.base=./nowhere"], "model.base: no model at"),
        (["data.unlabeled=./nowhere/*.csv"], "data.unlabeled: no file at"),
        (["data.columns.question=query"], "test.csv has no column 'query'; it has question, options, answer"),
        (["data.columns.oracle=truth"], "0.csv has no column 'truth'"),
        (["embedding.model=package:nothing_here"], "no Python package 'nothing_here'"),
        (["storage=nope://bucket"], "nope://bucket"),
        (["--until", "lable"], "no stage 'lable'; the stages are ingest, index, warmup"),
        (["--untill", "label"], "No such option"),
    ],
)
def test_one_clear_message_exit_code_2_and_nothing_written(
    project: Path, breaks: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.walk(project))
    assert call("run", f"{project}/c.yaml", *breaks) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") <= 3
    assert sorted(os.walk(project)) == before


def test_an_empty_unlabeled_folder_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "unlabeled" / "0.csv").unlink()
    assert call("run", f"{project}/c.yaml") == 2
    assert "data.unlabeled: no file at" in capsys.readouterr().err

"""The command line: its surface, its messages, its weight. Runs that need Ray are in tests/e2e."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from semievol import config
from semievol.cli.main import app, main
from semievol.runs.pipeline import Pipeline
from semievol.stages.base import Rows, StageResult

SURFACE = {
    "study": {"study", "overrides", "env", "as_json"},
    "serve": {"run", "overrides", "models", "host", "port", "keys"},
    "promote": {"run", "round_number", "force"},
    "rollback": {"run"},
    "verify": {"run", "as_json"},
    "select": {"run", "overrides", "as_json"},
    "key": {"name", "file"},
    "schema": {"markdown"},
    "init": {"labeled", "unlabeled", "test", "output", "model", "kind", "question", "answer", "force"},
    "run": {"config", "overrides", "until", "env", "as_json"},
    "plan": {"config", "overrides", "as_json"},
    "preview": {"config", "overrides", "n", "sample", "as_json"},
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
    code = (
        "import sys; from semievol.cli import main\n"
        "for command in sys.argv[1:]: main([command, '--help']); print('=====')\n"
        "print(sorted({'ray', 'torch', 'pyarrow', 'numpy', 'omegaconf', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *SURFACE], capture_output=True, text=True, check=True)
    *helps, loaded = done.stdout.split("=====")
    assert loaded.strip() == "[]"
    for command, text in zip(SURFACE, helps, strict=True):
        assert command in text
        assert "Example" in text or command == "demo"


@pytest.mark.parametrize("job", ["evolve", "label", "evaluate"])
def test_the_job_entry_points_are_the_run_command(job: str) -> None:
    file = Path(__file__).parents[3] / "jobs" / f"{job}.py"
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
        (["data.columns.options=choices"], "Name yours in data.columns.options, or set task.kind: only multiple_choice"),
        (["prompt.template='{{ subject }}: {{ question }}'"], "no column 'subject'; it has question, options, answer. Name yours in a template"),
        (["data.labeled=''"], "data.labeled: the path is empty"),
        (["embedding.model=package:nothing_here"], "no Python package 'nothing_here'"),
        (["storage=nope://bucket"], "nope://bucket"),
        (["--until", "lable"], "no stage 'lable'; the stages are ingest, index, warmup"),
        (["--untill", "label"], "No such option: --untill"),
        (["--untill", "label"], "See `semievol run --help`"),
    ],
)  # fmt: skip
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


def planned(project: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[list[tuple[int, str]], str]:
    """The steps that `plan` shows, and all that it prints."""
    main(["plan", f"{project}/c.yaml", *overrides, "--json"])
    out = capsys.readouterr().out
    return [(step["round"], step["stage"]) for step in json.loads(out.strip().splitlines()[-1])["stages"]], out


def finish(project: Path, number: int, paired: dict[str, Any]) -> None:
    """As if a round had been run: what `plan` needs of it."""
    (project / "runs" / "x").mkdir(parents=True, exist_ok=True)
    pipeline = Pipeline(config.load(f"{project}/c.yaml", ["rounds=2"]), lambda _: None)
    metrics = {"validation": {"paired": paired}}
    for (stage, at), fingerprint in pipeline.folder.fingerprints.items():
        if at == number:
            pipeline.folder.commit((stage, at), fingerprint, StageResult(Rows(1, 1), metrics, ""), 0.0)
    files = next(one.files for one in pipeline.rounds if one.number == number)
    if files:
        pipeline.folder.record(number, files, finished=True)


def test_plan_shows_the_rounds_that_there_will_be(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps, out = planned(project, capsys)
    assert {number for number, _ in steps} == {0} and "round" not in out.splitlines()[1]
    steps, out = planned(project, capsys, "rounds=3")
    assert [number for number, stage in steps if stage == "label"] == [0, 1, 2] and "round" in out
    finish(project, 0, {})
    (project / "unlabeled" / "1.csv").write_text(f"question,options\nq2,{ROW}\n")
    steps, out = planned(project, capsys, "rounds=2")
    assert {number for number, _ in steps} == {0, 1} and "1 unlabeled file(s) that have arrived since" in out
    assert "1.csv first, wait until this round is finished" in out
    finish(project, 1, {"evolved_vs_previous": {"interval": [-0.1, 0.2]}})
    (project / "unlabeled" / "0.csv").unlink()  # of a finished round
    steps, out = planned(project, capsys, "rounds=2")
    assert [stage for number, stage in steps if number == 2] == ["ingest", "retrieve", *(s for n, s in steps if n == 1)]
    assert [number for number, stage in steps if stage == "label"] == [0, 1, 2, 3]
    steps, out = planned(project, capsys, "rounds=3", "data.unlabeled=" + f"{project}/unlabeled/none")
    assert {number for number, _ in steps} == {0, 1} and "no round 2 over these rows" in out


def test_select_takes_only_its_own_settings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("select", f"{project}/runs/x", "select.theta=0.3", "label.justify=false") == 2
    assert "label.justify: `semievol select` takes overrides of select.* only" in capsys.readouterr().err
    assert call("select", f"{project}/runs/x", "select.theta=0.3") == 2
    assert "no run at" in capsys.readouterr().err
    finish(project, 0, {})
    (project / "runs" / "x" / "config.yaml").write_text((project / "c.yaml").read_text())
    (project / "runs" / "x" / "round-0" / "label" / "manifest.json").unlink()
    assert call("select", f"{project}/runs/x", "select.theta=0.3") == 2
    assert "no pseudo-labels in" in capsys.readouterr().err
    assert call("select", f"{project}/runs/x", "select.theta=3") == 2
    assert "select.theta: must be at most 1, is 3" in capsys.readouterr().err

"""Which stages run again after what change."""

import os
from pathlib import Path

import pytest

import semievol
from semievol import config, stages
from semievol.data import storage
from semievol.reports import summary
from semievol.runs.pipeline import Pipeline
from tests.support.stages import idle_stages

ROW = '"[""x"", ""y""]"'


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    data = {}
    for name in ("labeled", "unlabeled", "test"):
        (tmp_path / f"{name}.csv").write_text(f"question,options,answer\nq {name},{ROW},A\n")
        data[name] = f"{tmp_path}/{name}.csv"
    (tmp_path / "c.yaml").write_text(
        f"{{name: x, storage: {tmp_path}/runs, model: {{base: {tmp_path}/model}}, data: {data}}}"
    )
    return str(tmp_path / "c.yaml")


def run(file: str, *overrides: str) -> Pipeline:
    pipeline = Pipeline(config.load(file, list(overrides)), lambda _: None)
    pipeline.run(summary.write)
    return pipeline


def test_an_upgrade_runs_only_the_stages_that_changed(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = idle_stages(monkeypatch)
    order = [stage.name for stage in stages.registry() if stage.wanted(config.load(file))]
    pipeline = run(file)
    folder, steps = pipeline.folder, pipeline._steps
    assert ran == order

    ran.clear()
    monkeypatch.setattr(semievol, "__version__", "99.0.0")
    run(file)
    assert ran == []

    (label,) = (stage for stage in stages.registry() if stage.name == "label")
    monkeypatch.setitem(label.__dict__, "version", label.version + 1)
    run(file)
    expected = {"label"}
    for step in steps:
        expected |= {step.stage.name} if expected & {name for name, _ in step.inputs.values()} else set()
    assert ran == [name for name in order if name in expected]
    assert {"select", "finetune", "evaluate/evolved"} < set(ran) and "warmup" not in ran
    versions = {name: manifest.versions["semievol"] for name in order if (manifest := folder.manifest(name))}
    assert versions["label"] == "99.0.0" != versions["warmup"]


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("select.theta=0.3", ["select", "finetune"]),
        ("evaluate.max_tokens=5", ["evaluate/base", "evaluate/warm"]),
        ("label.rows_per_commit=7", []),
        ("engine.extra.gpu_memory_utilization=0.5", []),
        ("engine.extra.quantization=fp8", ["evaluate/base", "evaluate/warm", "label"]),
        ("evaluate.k=2", ["evaluate/retrieve", "evaluate/base"]),
        ("seed=1", ["warmup", "evaluate/warm", "label"]),
    ],
)
def test_a_setting_runs_again_what_depends_on_it(
    file: str, monkeypatch: pytest.MonkeyPatch, override: str, first: list[str]
) -> None:
    ran = idle_stages(monkeypatch)
    run(file)
    ran.clear()
    run(file, override)
    assert ran[: len(first) or 1] == first


def test_rounds_that_no_rows_may_stop_are_said_before_they_run(file: str) -> None:
    def remarks(*overrides: str) -> str:
        return " ".join(Pipeline(config.load(file, list(overrides)), lambda _: None).remarks)

    assert "stop_early: all 3 rounds run, as only validation rows may decide" in remarks("rounds=3")
    for decided in (["rounds=1"], ["rounds=3", "stop_early=false"], ["rounds=3", "data.validation=0.2"]):
        assert "stop_early" not in remarks(*decided)


def test_a_control_runs_nothing_else_again(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = idle_stages(monkeypatch)
    run(file)
    ran.clear()
    run(file, "evaluate.control=true")
    assert ran == ["control", "evaluate/control", "evaluate/compare"]


def test_the_same_bytes_uploaded_again_run_nothing_again(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = idle_stages(monkeypatch)
    config_of_run, reads = config.load(file, []), []
    sha256 = storage.sha256
    monkeypatch.setattr(storage, "sha256", lambda uri: reads.append(uri) or sha256(uri))

    def inputs_read() -> list[str]:
        found = [uri for uri in reads if uri.endswith(".csv")]
        reads.clear()
        return found

    Pipeline(config_of_run, lambda _: None).plan()
    assert inputs_read() == []  # there is nothing yet to compare the content with
    run(file)
    assert len(inputs_read()) == 3
    ran.clear()
    for name in ("labeled", "unlabeled", "test"):
        path = Path(getattr(config_of_run.data, name))
        os.utime(path, ns=(1, 1))
    assert {step.state for step in Pipeline(config_of_run, lambda _: None).plan()} == {"done"}
    assert len(inputs_read()) == 3  # once: their times are new
    run(file)
    assert ran == [] and inputs_read() == []
    Path(config_of_run.data.test).write_text(f"question,options,answer\nq TEST,{ROW},A\n")
    run(file)
    assert ran[0] == "ingest" and len(inputs_read()) == 1


def test_what_prompts_list_of_a_label_set_reads_no_file_again(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = idle_stages(monkeypatch)
    run(file, "task={kind: classification, labels: [A, B]}")
    ran.clear()
    run(file, "task={kind: classification, labels: {A: a letter, B: another}, show: all}")
    assert ran[:2] == ["warmup", "evaluate/base"]
    ran.clear()
    run(file, "task={kind: classification, labels: [A, B], show: likeliest}")
    assert ran[0] == "index" and {"warmup", "evaluate/retrieve", "label"} <= set(ran)
    ran.clear()
    run(file, "task={kind: classification, labels: [A, B, C], show: likeliest}")
    assert ran[0] == "ingest"

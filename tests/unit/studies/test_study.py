"""The study file, its runs, and the folder that they share. What the stages do in it is in tests/ray."""

from pathlib import Path

import pytest

from semievol.config import RunConfig
from semievol.errors import UserError
from semievol.runs.folder import MANIFEST
from semievol.runs.pipeline import Pipeline
from semievol.studies import study
from tests.support.stages import idle_stages

STUDIES = sorted((Path(__file__).parents[3] / "configs" / "studies").glob("*.yaml"))
ROW = '"[""x"", ""y""]"'
TEXT = """
name: s
storage: {storage}
config: ../c.yaml
overrides: [select.theta=0.4]
seeds: [3, 4]
methods:
  sft: {{until: evaluate/warm, report: warm}}
  ours: {{overrides: [select.theta=0.2]}}
  oracle: {{overrides: [select.ceiling=true], until: evaluate/evolved}}
compare_to: sft
sft: sft
semievol: ours
ceiling: oracle
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study of a little project."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("labeled", "unlabeled", "test"):
        (tmp_path / f"{name}.csv").write_text(f"question,options,answer\nq {name},{ROW},A\n")
    (tmp_path / "c.yaml").write_text(
        f"""
        model: {{base: {tmp_path}/model}}
        data:
          labeled: {tmp_path}/labeled.csv
          unlabeled: {tmp_path}/unlabeled.csv
          test: {tmp_path}/test.csv
          columns: {{oracle: answer}}
        """
    )
    (tmp_path / "studies").mkdir()
    file = tmp_path / "studies" / "s.yaml"
    file.write_text(TEXT.format(storage=tmp_path / "runs"))
    return file


def test_a_study_is_methods_times_seeds_and_its_overrides_go_where_they_belong(file: Path) -> None:
    runs = study.plan(study.load(str(file)))
    assert [run.config.name for run in runs] == ["sft-3", "ours-3", "oracle-3", "sft-4", "ours-4", "oracle-4"]
    assert [run.config.seed for run in runs] == [3, 3, 3, 4, 4, 4]
    assert [run.config.select.theta for run in runs[:3]] == [0.4, 0.2, 0.4]
    assert [run.config.select.ceiling for run in runs[:3]] == [False, False, True]
    assert (runs[0].method.until, runs[0].method.report, runs[1].method.report) == ("evaluate/warm", "warm", "evolved")
    runs = study.plan(study.load(str(file), ["seeds=[7]", "select.theta=0.9", "finetune.epochs=1"]))
    assert [(run.seed, run.config.select.theta, run.config.finetune.epochs) for run in runs[:2]] == [
        (7, 0.9, 1.0),
        (7, 0.2, 1.0),  # the method's own wins
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds:", "sedes:", "unknown key 'sedes'; did you mean 'seeds'"),
        ("report: warm", "reprot: warm", "methods.sft.reprot.*did you mean 'methods.sft.report'"),
        (
            "report: warm",
            "report: tepid",
            "methods.sft.report: must be one of base, warm, control, evolved, is 'tepid'",
        ),
        (
            "report: warm",
            "report: evolved",
            "methods.sft: report is evolved, which is not evaluated until evaluate/warm",
        ),
        ("evaluate/warm", "evaluate/hot", "methods.sft: .*no stage 'evaluate/hot'"),
        ("[3, 4]", "[3, 3]", r"none twice; got \[3, 3\]"),
        ("compare_to: sft", "compare_to: tfs", "compare_to: 'tfs' must be one of sft, ours, oracle"),
        ("sft: {", "../sft: {", "'../sft' names a folder"),
        ("theta=0.2", "tehta=0.2", "methods.ours: select.tehta=0.2: unknown key 'select.tehta'"),
        ("../c.yaml", "../d.yaml", "config file not found: .*studies/../d.yaml"),
        ("name: s\n", "", r"missing required key\(s\): name"),
    ],
)
def test_what_is_wrong_is_named(file: Path, old: str, new: str, message: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        study.plan(study.load(str(file)))


def test_every_study_in_the_repository_loads() -> None:
    assert STUDIES
    for path in STUDIES:
        loaded = study.load(str(path))
        assert loaded.compare_to in loaded.methods
        assert len(study.plan(loaded)) == len(loaded.methods) * len(loaded.seeds)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("semievol.studies.study.scores_by_row", lambda uri, config: {1: 1.0})
    return idle_stages(monkeypatch)


def test_equal_stages_run_once_and_only_what_is_needed(file: Path, tmp_path: Path, asked: list[str]) -> None:
    lines: list[str] = []
    found = study.run(study.load(str(file), ["seeds=[3]"]), lines.append)
    first = ["ingest", "warmup", "evaluate/warm"]
    ours = ["index", "retrieve", "evaluate/base", "label", "select", "finetune", "evaluate/evolved", "evaluate/compare"]
    assert asked == [*first, *ours, "select", "finetune", "evaluate/evolved"]  # the ceiling needs no pseudo-label
    assert "ours, seed 3: run 2 of 3" in lines
    folder = tmp_path / "runs" / "s"
    assert len(list((folder / "stages" / "warmup").iterdir())) == 1
    assert len(list((folder / "stages" / "evaluate" / "evolved").iterdir())) == 2
    for run in ("sft-3", "ours-3", "oracle-3"):
        assert {"config.yaml", "run.json", "summary.json", "README.md"} <= {
            p.name for p in (folder / "runs" / run).iterdir()
        }
    assert {p.name for p in folder.iterdir()} >= {"results.csv", "results.md", "results.json", "plot.png"}
    assert not list(folder.rglob("driver.json"))  # the leases are given back
    assert found["methods"]["ours"]["steps"] == 9 and found["methods"]["sft"]["mean"] == 0.5

    asked.clear()
    study.run(study.load(str(file), ["seeds=[3]"]), lines.append)
    assert asked == []
    study.run(study.load(str(file)), lines.append)  # another seed shares what draws nothing
    assert not {"ingest", "index", "retrieve", "evaluate/base"} & set(asked)
    assert asked[:2] == ["warmup", "evaluate/warm"]


def test_sft_of_as_many_steps_is_a_method_that_shares_the_training_whose_steps_it_takes(
    file: Path, asked: list[str]
) -> None:
    settings = "overrides: [evaluate.control=true, select.theta=0.2], until: evaluate/control, report: control"
    file.write_text(file.read_text().replace("  oracle: {", f"  sft_long: {{{settings}}}\n  oracle: {{"))
    found = study.run(study.load(str(file), ["seeds=[3]"]), lambda _: None)
    assert asked.count("finetune") == 2 and asked.index("control") == asked.index("evaluate/control") - 1
    assert found["methods"]["sft_long"]["steps"] == 9


def test_another_study_may_share_the_stages(file: Path, tmp_path: Path, asked: list[str]) -> None:
    study.run(study.load(str(file)), lambda _: None)
    asked.clear()
    other = study.load(str(file), ["name=other", "shares=s", "select.min_agreement=0.5"])
    study.run(other, lambda _: None)
    anew = [
        "select",
        "finetune",
        "evaluate/evolved",
        "evaluate/compare",
    ]  # not of the ceiling, which takes all rows whatever is selected
    assert asked == anew * len(other.seeds)
    assert (tmp_path / "runs" / "other" / "results.csv").exists()
    assert not (tmp_path / "runs" / "other" / "stages").exists()


def test_leftovers_are_resumed_and_no_other_stage_is_touched(file: Path, tmp_path: Path, asked: list[str]) -> None:
    loaded = study.load(str(file), ["seeds=[3]"])
    study.run(loaded, lambda _: None)
    (label,) = (tmp_path / "runs" / "s" / "stages" / "label").iterdir()
    (label / MANIFEST).unlink()  # as after a kill
    (label / "committed").write_text("rows")
    kept = set((tmp_path / "runs" / "s" / "stages").rglob("made"))
    asked.clear()
    study.run(loaded, lambda _: None)
    assert asked == ["label"]
    assert (label / "committed").exists()  # the stage goes on where it was
    study.run(study.load(str(file), ["seeds=[3]", "label.max_tokens=5"]), lambda _: None)
    assert asked[1:5] == ["label", "select", "finetune", "evaluate/evolved"]
    assert all(p.exists() for p in kept) and (label / "committed").exists()


def test_the_oracle_is_an_input_of_the_ceiling_alone(file: Path) -> None:
    ours, oracle = (run.config for run in study.plan(study.load(str(file)))[1:3])
    uri = str(file.parent / "x")

    def place(config: RunConfig, stage: str) -> str:
        return Pipeline(config, print, study.StudyFolder(uri, config.name, f"{uri}/stages")).folder.stage(stage)

    assert place(ours, "warmup") == place(oracle, "warmup") == place(ours.model_copy(update={"name": "z"}), "warmup")
    assert place(ours, "select") != place(oracle, "select")
    assert place(ours, "label") == place(oracle, "label")

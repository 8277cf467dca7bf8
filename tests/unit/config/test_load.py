from pathlib import Path

import pytest

from semievol import config
from semievol.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
MINIMAL = """
name: x
model: {base: m}
data: {labeled: l, unlabeled: u, test: t}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text(MINIMAL)
    return file


def test_defaults_overrides_and_round_trip(path: Path, tmp_path: Path) -> None:
    loaded = config.load(str(path), ["select.theta=0.3", "seed=7", "engine.extra.gpu_memory_utilization=0.8"])
    assert (loaded.select.theta, loaded.seed, loaded.name) == (0.3, 7, "x")
    assert loaded.engine.extra == {"gpu_memory_utilization": 0.8}
    assert len(loaded.label.collaborators) == 4
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml(loaded))
    assert config.load(str(again)) == loaded


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("select.teta=0.3", "unknown key 'select.teta'; did you mean 'select.theta'"),
        ("modle.base=x", "unknown key 'modle'; did you mean 'model'"),
        ("warmup.lora.rnk=3", "'warmup.lora.rank'"),
        ("zzz=1", "valid keys here: name, preset, storage"),
        ("select.theta=high", "select.theta"),
        ("select.theta", "select.theta: an override is written KEY=VALUE"),
        ("select.theta=[1", r"select.theta=\[1: not a value in YAML's notation"),
        ("select=0.3", r"select is a group of settings \(confidence, .*\), and not '0.3'"),
        ("label.collaborators[0].k=3", r"label.collaborators is a list, and only replaced as a whole"),
        ("seed=[1]", "seed"),
        ("resources.label.num_gpus=2", "num_gpus: is 2, where engine.extra splits a model over 1 GPUs"),
        ("select.theta=0", r"select.theta: 0.0 is not in \(0, 1\]"),
        ("select.max_per_answer=0", "select.max_per_answer"),
        ("select.ceiling=true", "select.ceiling: needs data.columns.oracle"),
        ("finetune.start_from=scratch", "none of base, warm"),
        ("task.kind=essay", "task.kind: 'essay' is none of multiple_choice, numeric, free_text, open_ended"),
        ("task.tolerance=-0.1", r"task.tolerance: -0.1 is not in \[0, 1\)"),
        ("task.tolerance=1", r"task.tolerance: 1.0 is not in \[0, 1\)"),
        ("task.tolerance=.nan", "task.tolerance"),
        ("task.similarity=0", r"task.similarity: 0.0 is not in \(0, 1\]"),
        ("task.similarity=1.1", "task.similarity"),
        ("data.columns.options=null", "data.columns.options: multiple_choice needs a column of options"),
        ("retrieve.k=1", r"label.collaborators\[2\].k: 3 is not between 0 and retrieve.k = 1"),
        ("retrieve.by=magic", "retrieve.by: 'magic' is none of embedding, bm25"),
        ("evaluate.k=-1", "evaluate.k: must not be negative"),
        ("warmup.batch_size=6", "warmup.batch_size: 6 is no multiple of"),
        ("warmup.zero_stage=4", "warmup.zero_stage"),
        ("resources.label.actors=0", "resources.label.actors"),
        ("resources.train.workers=0", "resources.train.workers: 0 is not positive"),
        ("resources.serve.num_gpus=-1", "resources.serve.num_gpus: must not be negative, is -1"),
        ("finetune.lora.dropout=1", r"finetune.lora.dropout: 1.0 is not in \[0, 1\)"),
        ("warmup.per_device_batch_size=0", "warmup.per_device_batch_size: 0 is not positive"),
        ("evaluate.confidence_level=1.0", "evaluate.confidence_level"),
        ("warmup.warmup_ratio=5", r"warmup.warmup_ratio: 5.0 is not in \[0, 1\)"),
        ("finetune.scheduler=foo", "finetune.scheduler: 'foo' is none of linear"),
        ("name=../x", "name: '../x' names a folder"),
        ("label.collaborators=[]", "at least one"),
        ("label.collaborators=[{name: a, kind: oracle}]", "none of model, neighbors"),
        ("label.collaborators=[{name: a, prompt: loud}]", r"collaborators\[0\].prompt: 'loud' is none of plain"),
        ("label.collaborators=[{name: a}, {name: a}]", "names must differ"),
        (
            "label.collaborators=[{name: a, temperature: 2.5}]",
            r"\[0\].temperature: 2.5 is neither 0 nor from 0.01 to 2",
        ),
        (
            "label.collaborators=[{name: a, temprature: 1}]",
            r"'label.collaborators\[0\].temprature'; did you mean .*ature'",
        ),
        ("methods={}", "this is a study; use `semievol study`"),
        ("label.collaborators=[{k: 1}]", "label.collaborators"),
        ("label.collaborators=[{name: a, model: round-0}]", "label.collaborators: none takes part in round 0"),
        ("rounds=0", "rounds: 0 is not positive"),
    ],
)
def test_what_is_wrong_is_named(path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.load(str(path), [override])


def test_neighbours_do_not_vote_by_bm25(path: Path) -> None:
    voting = "label.collaborators=[{name: a, kind: neighbors}]"
    assert config.load(str(path), [voting]).label.collaborators[0].kind == "neighbors"
    with pytest.raises(UserError, match=r"label.collaborators\[0\].kind: neighbors vote by cosine"):
        config.load(str(path), [voting, "retrieve.by=bm25"])


@pytest.mark.parametrize("setting", ["select.per=answer", "select.max_per_answer=5", "label.mode=score"])
def test_what_needs_a_closed_answer_set_is_refused_without_one(path: Path, setting: str) -> None:
    config.load(str(path), [setting])
    with pytest.raises(UserError, match=f"{setting.split('=')[0]}.* needs answers from a closed set"):
        config.load(str(path), [setting, "task.kind=open_ended", "data.columns.options=null"])


def test_gpus_of_an_engine_are_those_that_its_model_is_split_over(path: Path) -> None:
    split = ["engine.extra.tensor_parallel_size=2", "engine.extra.pipeline_parallel_size=2"]
    assert config.load(str(path), [*split, "resources.label.num_gpus=4"]).serving_gpus == 1  # of each of the four
    assert config.load(str(path), ["resources.label.num_gpus=0.5"]).serving_gpus == 0.5
    assert config.load(str(path), ["resources.label.num_gpus=1", "resources.serve.num_gpus=0"]).serving_gpus == 0
    with pytest.raises(UserError, match=r"num_gpus: is 1, where .* splits a model over 4 GPUs"):
        config.load(str(path), [*split, "resources.label.num_gpus=1"])


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config file not found"):
        config.load(str(tmp_path / "none.yaml"))
    file = tmp_path / "c.yaml"
    file.write_text("name: x\n")
    with pytest.raises(
        UserError, match=r"missing required key\(s\): data.labeled, data.test, data.unlabeled, model.base"
    ):
        config.load(str(file))
    file.write_text("- a list")
    with pytest.raises(UserError, match="mapping"):
        config.load(str(file))
    file.write_text("a: [")
    with pytest.raises(UserError, match="YAML"):
        config.load(str(file))


def test_every_config_in_the_repository_loads() -> None:
    files = [file for file in sorted(CONFIGS.rglob("*.yaml")) if file.parent.name != "studies"]  # see test_study
    assert files
    for file in files:
        config.load(str(file))
    assert {f.stem for f in files} >= {"mmlu", "mmlu_pro", "arc", "fpb", "usmle", "pubmedqa", "convfinqa"}


def test_other_kinds_of_task_need_no_options(path: Path) -> None:
    loaded = config.load(str(path), ["task.kind=numeric", "data.columns.options=null", "task.tolerance=0"])
    assert loaded.data.columns.options is None
    assert loaded.task.tolerance == 0


def test_presets_are_where_a_config_starts_from(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    for preset, learning_rate, labeled in (("paper", 1e-4, True), ("released", 1e-6, False), ("default", 1e-4, True)):
        file.write_text(f"preset: {preset}\n{MINIMAL}")
        found = config.load(str(file), ["select.theta=0.4"])
        assert (found.finetune.learning_rate, found.finetune.include_labeled) == (learning_rate, labeled)
        assert (found.preset, found.select.theta) == (preset, 0.4)
        file.write_text(config.to_yaml(found))
        assert config.load(str(file)) == found
    file.write_text(MINIMAL)
    assert [c.samples for c in config.load(str(file), ["preset=released"]).label.collaborators] == [4]
    with pytest.raises(UserError, match="preset: 'mine' is none of default, paper, released"):
        config.load(str(file), ["preset=mine"])

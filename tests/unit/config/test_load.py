from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from semievol import config
from semievol.config import Collaborator, DeepSpeedTrainer, EngineConfig, SelectConfig
from semievol.config.labeling import LabelConfig
from semievol.errors import UserError
from semievol.tasks import Row

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
        ("select.theta=high", "^select.theta=high: select.theta: must be a number, is 'high'"),
        ("select.theta", "select.theta: an override is written KEY=VALUE"),
        ("select.theta=[1", r"select.theta=\[1: not a value in YAML's notation"),
        ("select=0.3", r"select is a group of settings \(confidence, .*\), and not 0.3"),
        ("label.collaborators[0].k=3", r"label.collaborators is a list, and only replaced as a whole"),
        ("seed=[1]", r"seed: must be a whole number, is \[1\]"),
        ("resources.label.num_gpus=2", "num_gpus: is 2, where engine.extra splits a model over 1 GPUs"),
        ("select.theta=0", "select.theta: must be greater than 0, is 0"),
        ("select.max_per_answer=0", "select.max_per_answer"),
        ("select.ceiling=true", "select.ceiling: needs data.columns.oracle"),
        ("finetune.start_from=scratch", "must be one of base, warm, is 'scratch'"),
        ("task.kind=essay", "task.kind: must be one of .*numeric.*, is 'essay'"),
        ("task={kind: numeric, tolerance: -0.1}", "task.tolerance: must be at least 0, is -0.1"),
        ("task={kind: numeric, tolerance: 1}", "task.tolerance: must be less than 1, is 1"),
        ("task={kind: numeric, tolerance: .nan}", "task.tolerance: must be a finite number"),
        ("task={kind: open_ended, similarity: 0}", "task.similarity: must be greater than 0, is 0"),
        ("task={kind: open_ended, similarity: 1.1}", "task.similarity: must be at most 1, is 1.1"),
        ("task.tolerance=0.1", "unknown key 'task.tolerance'; valid keys with kind: multiple_choice: kind"),
        ("task.kind=numerical", "task.kind: must be one of .*; did you mean 'numeric'"),
        ("task=numeric", "task is a group of settings"),
        ("data.columns.options=null", "data.columns.options: multiple_choice needs a column of options"),
        ("retrieve.k=1", r"label.collaborators\[2\].k: must be from 0 to retrieve.k = 1, is 3"),
        ("retrieve.by=magic", "retrieve.by: must be one of embedding, bm25, is 'magic'"),
        ("evaluate.k=-1", "evaluate.k: must be at least 0, is -1"),
        ("warmup.batch_size=6", "warmup.batch_size: must be a multiple of .* = 8, is 6"),
        ("warmup.zero_stage=4", "warmup.zero_stage: must be one of 0, 1, 2, 3, is 4"),
        ("resources.label.actors=0", "resources.label.actors"),
        ("resources.train.workers=0", "resources.train.workers: must be greater than 0, is 0"),
        ("resources.serve.num_gpus=-1", "resources.serve.num_gpus: must be at least 0, is -1"),
        ("finetune.lora.dropout=1", "finetune.lora.dropout: must be less than 1, is 1"),
        ("warmup.per_device_batch_size=0", "warmup.per_device_batch_size: must be greater than 0, is 0"),
        ("evaluate.confidence_level=1.0", "evaluate.confidence_level"),
        ("warmup.warmup_ratio=5", "warmup.warmup_ratio: must be less than 1, is 5"),
        ("finetune.scheduler=foo", "finetune.scheduler: must be one of linear, .*, is 'foo'"),
        ("name=../x", "name: '../x' names a folder"),
        ("label.collaborators=[]", "at least one"),
        ("label.collaborators=[{name: a, kind: oracle}]", "must be one of model, neighbors, probe, is 'oracle'"),
        (
            "label.collaborators=[{name: a, prompt: loud}]",
            r"collaborators\[0\].prompt: prompt.styles has no 'loud'; it has plain, careful",
        ),
        ("label.collaborators=[{name: a}, {name: a}]", "names must differ"),
        ("warmup.members=0", "warmup.members: must be at least 1, is 0"),
        ("warmup.styles=[plain, loud]", "warmup.styles: prompt.styles has no 'loud'; it has plain, careful"),
        ("warmup.styles=[]", "warmup.styles: name at least one"),
        (
            "label.collaborators=[{name: a, model: warm-1}]",
            r"collaborators\[0\].model: is warm-1; warm stands for every",
        ),
        (
            "label.collaborators=[{name: a, temperature: 2.5}]",
            r"\[0\].temperature: must be 0 or from 0.01 to 2, is 2.5",
        ),
        (
            "label.collaborators=[{name: a, temprature: 1}]",
            r"'label.collaborators\[0\].temprature'; did you mean .*ature'",
        ),
        ("methods={}", "this is a study; use `semievol study`"),
        ("label.collaborators=[{k: 1}]", r"missing required key\(s\): label.collaborators\[0\].name"),
        ("label.collaborators=[{name: a, model: round-0}]", "label.collaborators: none takes part in round 0"),
        ("rounds=0", "rounds: must be greater than 0, is 0"),
        ("data.test=1.5", "data.test: must be a file, .* or a fraction such as 0.2, is 1.5"),
        ("data.test=0", "data.test: must be a file, .*, is 0"),
        ("data.test=null", "data.test: must be a file, .*, is nothing"),
        ("data.validation=1", "data.validation: must be .* a fraction such as 0.2, is 1"),
        (
            "prompt.instruction={{ x }}",
            "not a value in YAML's notation: .* A text with signs needs quotes of its own: 'KEY=",
        ),
        (
            "prompt.template='{{ instruction }}'",
            "prompt.template: shows nothing of a row; name {{ question }} or a column",
        ),
        ("prompt.example_template='Q: A: {{ answer }}'", "prompt.example_template: shows nothing of a row"),
        ("data.unlabeled=''", "data.unlabeled: the path is empty"),
        ("data={test: 0.6, validation: 0.4}", "data.test and data.validation hold back 1 of the labeled rows"),
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


def test_a_probe_needs_one_label_set_and_embeddings(path: Path) -> None:
    probing, labels = "label.collaborators=[{name: a}, {name: p, kind: probe}]", "task.kind=classification"
    loaded = config.load(str(path), [probing, labels, "retrieve.k=3"])
    assert loaded.probe and loaded.label.collaborators[1].kind == "probe"
    assert config.load(str(path)).probe is None
    config.load(str(path), ["label.collaborators=[{name: p, kind: probe}]", labels, "retrieve.k=0"])  # it reads no k
    for wrong, message in (
        (
            [probing],
            r"label.collaborators\[1\].kind: a probe needs one label set for all rows, task.kind: classification;",
        ),
        ([probing, "task={kind: classification, multiple: true}"], "classification and one label a row; leave it out"),
        ([probing, labels, "retrieve.by=bm25"], "a probe reads embeddings, which retrieve.by: bm25 does not make"),
        (["label.collaborators=[{name: p, kind: probe}, {name: q, kind: probe}]", labels], "one probe is enough"),
    ):
        with pytest.raises(UserError, match=message):
            config.load(str(path), wrong)


def test_a_probe_votes_beside_a_committee_where_there_is_a_label_set(path: Path) -> None:
    def voters(*overrides: str) -> list[str]:
        loaded = config.load(str(path), ["warmup.members=3", *overrides])
        return [who.name for who in loaded.label.collaborators]

    assert voters() == ["committee"]
    assert voters("task.kind=classification") == ["committee", "probe"]
    assert voters("task.kind=classification", "retrieve.by=bm25") == ["committee"]
    assert voters("task={kind: classification, multiple: true}") == ["committee"]
    assert voters("task.kind=classification", "label.collaborators=[{name: a, k: 0}]") == ["a"]


@pytest.mark.parametrize(
    "setting", ["select.per=answer", "select.max_per_answer=5", "label.mode=score", "evaluate.mode=score"]
)
def test_what_needs_a_closed_answer_set_is_refused_without_one(path: Path, setting: str) -> None:
    config.load(str(path), [setting])
    with pytest.raises(UserError, match=f"{setting.split('=')[0]}.* needs answers from a closed set"):
        config.load(str(path), [setting, "task.kind=open_ended", "data.columns.options=null"])


@pytest.mark.parametrize(
    ("overrides", "label", "evaluate"),
    [
        ([], "sample", "sample"),
        (["label.mode=score"], "score", "sample"),
        (["task.kind=classification"], "score", "score"),
        (["task={kind: classification, labels: [a, b]}"], "score", "score"),
        (["task={kind: classification, multiple: true}"], "sample", "sample"),
        (["task.kind=classification", "label.mode=sample"], "sample", "score"),
        (["task.kind=classification", "evaluate.mode=sample"], "score", "sample"),
        (["task.kind=classification", "label.collaborators=[{name: a, samples: 4}]"], "sample", "score"),
        (
            ["task.kind=classification", "label.collaborators=[{name: a, endpoint: 'http://h/v1'}]"],
            "sample",
            "score",
        ),
        (["task.kind=classification", "engine.kind=openai", "trainer={kind: openai}"], "sample", "sample"),
        (["task.kind=numeric"], "sample", "sample"),
    ],
)
def test_labels_are_scored_where_that_can_be(path: Path, overrides: list[str], label: str, evaluate: str) -> None:
    found = config.load(str(path), overrides)
    assert (found.label_how["mode"], found.evaluate_how["mode"]) == (label, evaluate)
    longer = config.load(str(path), [*overrides, "label.max_tokens=99", "evaluate.max_tokens=99"])
    assert (longer.label_how == found.label_how) == (label == "score")  # nothing is generated
    assert (longer.evaluate_how == found.evaluate_how) == (evaluate == "score")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task={kind: classification, labels: [yes, no]}"], "task.*labels: put quotes around yes, no"),
        (["task={kind: classification, labels: [a]}"], "at least two"),
        (["task={kind: classification, labels: [a, A]}"], "'a' and 'A' differ in case"),
        (
            ["task={kind: classification, multiple: true}", "label.mode=score"],
            "label.mode: score .*several labels a row",
        ),
        (
            ["task={kind: classification, show: likeliest}", "serving.neighbors=0"],
            "serving.neighbors: must be at least 1",
        ),
        (
            ["task.kind=classification", "evaluate.mode=score", "engine.kind=openai", "trainer={kind: openai}"],
            "evaluate.mode: score needs the exact .*Use evaluate.mode: sample",
        ),
        (
            ["task.kind=classification", "label.mode=score", "label.collaborators=[{name: a, samples: 4}]"],
            "samples: more than one needs label.mode: sample",
        ),
    ],
)
def test_what_classification_refuses(path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.load(str(path), overrides)


def test_label_sets_of_yaml(path: Path) -> None:
    described = config.load(str(path), ["task={kind: classification, labels: {spam: unwanted, 1: ''}}"]).task
    assert described.choices(Row("", [], None, None)) == ["spam", "1"]
    again = config.loads(
        config.to_yaml(config.load(str(path), ["task={kind: classification, labels: ['no', 1]}"])), [], "x"
    )
    assert again.task.choices(Row("", [], None, None)) == ["no", "1"]


def test_gpus_of_an_engine_are_those_that_its_model_is_split_over(path: Path) -> None:
    split = ["engine.extra.tensor_parallel_size=2", "engine.extra.pipeline_parallel_size=2"]
    assert config.load(str(path), [*split, "resources.label.num_gpus=4"]).serving_gpus == 1  # of each of the four
    assert config.load(str(path), ["resources.label.num_gpus=0.5"]).serving_gpus == 0.5
    assert config.load(str(path), ["resources.label.num_gpus=1", "resources.serve.num_gpus=0"]).serving_gpus == 0
    with pytest.raises(UserError, match=r"num_gpus: is 1, where .* splits a model over 4 GPUs"):
        config.load(str(path), [*split, "resources.label.num_gpus=1"])


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"config file not found: .*none.yaml. `semievol init LABELED UNLABELED` writes one"
    ):
        config.load(str(tmp_path / "none.yaml"))
    file = tmp_path / "c.yaml"
    file.write_text("name: x\n")
    with pytest.raises(
        UserError, match=r"missing required key\(s\): data.labeled, data.test, data.unlabeled, model.base"
    ):
        config.load(str(file))
    with pytest.raises(
        UserError, match=r"missing .* data.test, .*; data.test=0.2 holds back a fifth of the labeled rows"
    ):
        config.load(str(file))
    for content in ("- a list", "text,label\nAt 10:30 my card was gone,card\n"):
        file.write_text(content)
        with pytest.raises(UserError, match=r"c.yaml: a config is a mapping .* For a file with rows, `semievol init`"):
            config.load(str(file))
    file.write_text("a: [")
    with pytest.raises(UserError, match="YAML"):
        config.load(str(file))


def test_held_back_rows_are_files_or_shares(path: Path) -> None:
    data = config.load(str(path), ["data.test=0.2", "data.validation=v/*.csv"]).data
    assert data.carved == {"test": 0.2} and data.validation == "v/*.csv"
    assert config.of_run(config.to_yaml(config.load(str(path), ["data.test=0.2"])), [], "x").data.carved == {
        "test": 0.2
    }


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


def test_a_preset_may_set_what_the_trainer_does_not_read(path: Path) -> None:
    elsewhere = ["engine.kind=openai", "trainer.kind=openai", "preset=released"]
    assert config.load(str(path), elsewhere).finetune.learning_rate == 1e-6
    with pytest.raises(UserError, match=r"finetune.learning_rate: trainer.kind: openai does not read it"):
        config.load(str(path), [*elsewhere, "finetune.learning_rate=0.1"])


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
    with pytest.raises(UserError, match="preset: must be one of default, paper, released, is 'mine'"):
        config.load(str(file), ["preset=mine"])


def test_all_problems_are_told_at_once_with_the_place_of_each(path: Path) -> None:
    path.write_text(path.read_text().replace("base: m", "base: '???'") + "select: {theta: 2, teta: 1}\n")
    with pytest.raises(UserError) as found:
        config.load(str(path), ["rounds=0", "label.mode=scores"])
    assert str(found.value).splitlines() == [
        "rounds=0: rounds: must be greater than 0, is 0",
        "label.mode=scores: label.mode: must be one of auto, sample, score, is 'scores'; did you mean 'score'?",
        f"{path}: select.theta: must be at most 1, is 2",
        f"{path}: unknown key 'select.teta'; did you mean 'select.theta'?",
        f"{path}: missing required key(s): model.base. Set them in the file or as key=value",
    ]


def test_interpolation_reaches_defaults(path: Path) -> None:
    loaded = config.load(
        str(path), ["finetune.epochs=${warmup.epochs}", "finetune.batch_size=${.per_device_batch_size}0"]
    )
    assert (loaded.finetune.epochs, loaded.finetune.batch_size) == (loaded.warmup.epochs, 40) == ("auto", 40)


def test_what_is_made_in_code_is_checked_too() -> None:
    with pytest.raises(ValidationError, match="neighbors that vote must be at least 1"):
        Collaborator(name="x", kind="neighbors", k=0)
    with pytest.raises(ValidationError, match="greater than 0"):
        EngineConfig(max_num_seqs=0)
    first, second = LabelConfig(), LabelConfig()
    first.collaborators.pop()
    assert len(second.collaborators) == 4  # defaults are not shared


def test_names_of_confidences_are_the_same() -> None:
    assert get_args(SelectConfig.model_fields["confidence"].annotation) == config.CONFIDENCES


@pytest.mark.parametrize(
    "setting", ["warmup.learning_rate=1", "finetune.lora.rank=8", "warmup.lora.extra={use_dora: true}"]
)
def test_what_the_api_does_not_read_is_refused(path: Path, setting: str) -> None:
    api = ["engine.kind=openai", "trainer.kind=openai"]
    config.load(
        str(path), [*api, "warmup.batch_size=3", "finetune.start_from=warm", "warmup.context=knn", "warmup.k=2"]
    )
    with pytest.raises(UserError, match=f"{setting.split('=')[0]}: trainer.kind: openai does not read it; leave it at"):
        config.load(str(path), [*api, setting])
    with pytest.raises(UserError, match=r"evaluate\.control: needs trainer\.kind: deepspeed"):
        config.load(str(path), [*api, "evaluate.control=true"])


def test_what_goes_to_a_library_goes_there_as_it_is(path: Path) -> None:
    loaded = config.load(str(path), ["trainer.extra.neftune_noise_alpha=5", "warmup.lora.extra={use_dora: true}"])
    assert isinstance(loaded.trainer, DeepSpeedTrainer)
    assert (loaded.trainer.extra, loaded.warmup.lora.extra) == ({"neftune_noise_alpha": 5}, {"use_dora": True})
    with pytest.raises(UserError, match=r"unknown key 'trainer.extra'; valid keys with kind: openai: kind, endpoint"):
        config.load(str(path), ["trainer={kind: openai, extra: {a: 1}}"])


def test_what_counts_leaves_out_what_changes_only_the_speed(path: Path) -> None:
    loaded = config.load(str(path), ["engine.extra={enforce_eager: true, quantization: fp8}", "select.theta=0.2"])
    assert loaded.engine.output_extra == {"quantization": "fp8"}
    assert loaded.select.output_settings["theta"] == 0.2
    loaded.select.ceiling = True
    assert loaded.select.output_settings == {"ceiling": True}


def test_thinking_is_on_or_off_though_yaml_reads_booleans(path: Path) -> None:
    for given, thinking in (("on", "on"), ("off", "off"), ("'on'", "on"), ("true", "on"), ("False", "off")):
        loaded = config.load(str(path), [f"model.thinking={given}"])
        assert loaded.model.thinking == thinking
        assert config.loads(config.to_yaml(loaded), [], "again").model.thinking == thinking
    with pytest.raises(UserError, match=r"model\.thinking: must be one of off, on, is 'maybe'"):
        config.load(str(path), ["model.thinking=maybe"])
    labels = ["task.kind=classification", "task.labels=[a, b]"]
    for thinks, mode in (("off", "score"), ("on", "sample")):  # what `auto` stands for
        loaded = config.load(str(path), [*labels, f"model.thinking={thinks}"])
        assert loaded.label_how["mode"] == loaded.evaluate_how["mode"] == mode
    with pytest.raises(UserError, match=r"evaluate\.mode: score asks for no thoughts"):
        config.load(str(path), [*labels, "model.thinking=on", "evaluate.mode=score"])
    with pytest.raises(UserError, match=r"label\.mode: score asks for no thoughts"):
        config.load(str(path), ["model.thinking=on", "label.mode=score"])
    api = ["engine.kind=openai", "trainer.kind=openai"]
    for setting in ("model.thinking=on", "model.chat_template=plain"):
        with pytest.raises(
            UserError, match=f"{setting.partition('=')[0]}: with engine.kind: openai the endpoint decides"
        ):
            config.load(str(path), [*api, setting])

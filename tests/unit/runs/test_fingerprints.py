"""Which steps run again after a change of a config, and that an upgrade alone runs none again."""

from pathlib import Path
from typing import Any

import pytest

from semievol.config import ModelConfig
from semievol.data.storage import FileEntry
from semievol.errors import UserError
from semievol.runs import rounds
from semievol.runs.fingerprints import Fingerprints
from semievol.runs.rounds import Round
from semievol.stages.base import Key
from semievol.tasks import KINDS
from tests.support import packages
from tests.support.configs import run_config

FILE = FileEntry("/u/a", 10, 1)
OF_TODAY = {
    "index": "c058ab7c05926e8e",
    "warmup": "6f90615dee63070f",
    "evaluate/warm": "1141ce297b4e05a6",
    "label": "7418d3c10eb3f395",
    "finetune": "04e6fb27bcc2808f",
    "evaluate/evolved": "81c3da1ecd372260",
}
ASKS = {"warmup", "label", "finetune", "evaluate/base", "evaluate/warm", "evaluate/evolved"}


def prints(model: ModelConfig, **more: Any) -> dict[Key, str]:
    config = run_config(model=model, **more)
    files = {"labeled": [FILE], "test": [FILE]}
    return Fingerprints(config, files).of(rounds.steps([Round(0, (FILE,))], config))


def changed(before: dict[Key, str], after: dict[Key, str]) -> set[str]:
    return {stage for stage, number in before if before[stage, number] != after[stage, number]}


def test_template_and_thinking_count_and_the_name_of_a_file_does_not(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    one, two = tmp_path / "one.jinja", tmp_path / "two.jinja"
    one.write_text("{{ messages[0].content }}")
    two.write_text(one.read_text())
    plain = prints(ModelConfig(base=str(base)))
    given = prints(ModelConfig(base=str(base), chat_template=str(one)))
    assert not changed(given, prints(ModelConfig(base=str(base), chat_template=str(two))))
    thinks = prints(ModelConfig(base=str(base), thinking="on"))
    two.write_text("{{ messages[-1].content }}")
    other = prints(ModelConfig(base=str(base), chat_template=str(two)))
    for before, after in ((plain, given), (plain, thinks), (given, other)):
        assert changed(before, after) >= ASKS
        assert not changed(before, after) & {"ingest", "index", "retrieve"}
    with pytest.raises(UserError, match=r"model\.chat_template: 'none\.jinja' is neither a readable file"):
        prints(ModelConfig(base=str(base), chat_template="none.jinja"))


def test_a_packaged_base_is_told_by_the_version_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    found = []
    for place, version in (("here", "1.0"), ("there", "1.0"), ("newer", "1.1")):
        packages.write(tmp_path / place, "a_base", files, version)
        with monkeypatch.context() as on_path:
            on_path.syspath_prepend(str(tmp_path / place))
            found.append(prints(ModelConfig(base="package:a_base")))
    assert not changed(found[0], found[1])
    assert changed(found[1], found[2]) >= ASKS
    with pytest.raises(UserError, match=r"model\.base: no Python package 'a_base'"):
        prints(ModelConfig(base="package:a_base"))


@pytest.mark.parametrize(
    ("kind", "before", "after", "reads"),
    [
        ("numeric", {}, {"tolerance": 0.1}, False),
        ("open_ended", {}, {"similarity": 0.9}, False),
        ("chat", {}, {"similarity": 0.9, "loss": "all"}, False),
        ("classification", {"labels": ["a", "b"]}, {"labels": {"a": "", "b": "bad"}, "show": "none"}, False),
        ("classification", {"labels": ["a", "b"]}, {"labels": ["a", "b", "c"]}, True),
        ("classification", {"multiple": True}, {"multiple": True, "separator": "|"}, True),
    ],
)
def test_files_are_read_again_only_where_cells_mean_something_else(
    tmp_path: Path, kind: str, before: dict[str, Any], after: dict[str, Any], reads: bool
) -> None:
    (tmp_path / "config.json").write_text("{}")
    base = ModelConfig(base=str(tmp_path))
    one, other = (prints(base, task=KINDS[kind](**settings)) for settings in (before, after))
    assert ("ingest" in changed(one, other)) == reads
    assert "label" in changed(one, other)


def test_an_upgrade_runs_nothing_again_of_a_run_with_one_warm_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievol.runs.fingerprints._base_identity", lambda config: ["base"])
    monkeypatch.setattr("semievol.runs.fingerprints._embedding_identity", lambda model: ["embedding"])
    monkeypatch.setattr("semievol.runs.fingerprints._model_identity", lambda key, model, begins_with=(): [key, model])
    base, passes = ModelConfig(base="m"), {"epochs": 2.0}  # as the default was
    found = prints(base, warmup=passes, finetune=passes)
    assert {stage: found[stage, 0] for stage in OF_TODAY} == OF_TODAY
    found, committee = prints(base), prints(base, warmup={"members": 3})
    assert changed(found, committee) >= {"index", "warmup", "evaluate/warm", "label"}
    assert not changed(found, committee) & {"ingest", "evaluate/base"}
    styles = {"plain": "", "careful": "Think."}
    spoken_to = prints(base, warmup={"members": 3}, prompt={"styles": styles})
    assert changed(committee, spoken_to) >= {"warmup", "evaluate/warm", "label"}
    assert not changed(committee, spoken_to) & {"index", "retrieve", "evaluate/base"}


def test_a_probe_is_a_part_of_the_index_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    base = ModelConfig(base=str(tmp_path))
    without = prints(
        base, warmup={"members": 3}, task=KINDS["classification"](), label={"collaborators": [{"name": "a"}]}
    )
    probed = prints(base, warmup={"members": 3}, task=KINDS["classification"]())
    assert changed(without, probed) >= {"index", "retrieve", "label", "combine", "select"}
    assert not changed(without, probed) & {"ingest", "warmup", "evaluate/base", "evaluate/warm"}

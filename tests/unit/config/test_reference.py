"""The committed schema and reference say what the code says; a new kind of task may wait for the next time they are made."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from semievol.config import reference

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "docs" / "reference"
MAKE = "run: semievol schema > docs/reference/config.schema.json; semievol schema --markdown > docs/reference/config.md"


@pytest.fixture
def committed() -> Any:
    return json.loads((REFERENCE / "config.schema.json").read_text())


@pytest.fixture
def made(committed: Any) -> Any:
    """The schema without the kinds of task that the committed one does not know."""
    found = reference.json_schema()
    task = found["properties"]["task"]
    known = committed["properties"]["task"]["discriminator"]["mapping"]
    for kind in set(task["discriminator"]["mapping"]) - set(known):
        place = task["discriminator"]["mapping"].pop(kind)
        task["oneOf"].remove({"$ref": place})
        del found["$defs"][place.rpartition("/")[2]]
    return found


def test_the_committed_schema_is_that_of_the_code(committed: Any, made: Any) -> None:
    assert committed == made, MAKE


def test_the_committed_reference_is_that_of_the_code(made: Any) -> None:
    assert (REFERENCE / "config.md").read_text() == reference.markdown(made), MAKE


def test_every_key_with_a_name_that_says_little_is_explained(made: Any) -> None:
    text = reference.markdown(made)
    for key in (
        "select.theta",
        "label.collaborators.temperature",
        "warmup.lora.extra",
        "trainer.extra",
        "engine.extra",
    ):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{key}` |"))
        assert line.split("|")[4].strip()


def test_editors_find_the_schema_and_the_configs_fit_it(committed: Any) -> None:
    from omegaconf import OmegaConf

    for file in sorted((ROOT / "configs").glob("*.yaml")):
        place = file.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        assert (file.parent / place).resolve() == (REFERENCE / "config.schema.json").resolve()
        config = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
        assert list(Draft202012Validator(committed).iter_errors(config)) == []


@pytest.mark.parametrize(
    ("task", "fits"),
    [
        ({}, True),
        ({"kind": "numeric", "tolerance": 0.1}, True),
        ({"tolerance": 0.1}, False),
        ({"kind": "essay"}, False),
    ],
)
def test_the_kind_decides_which_keys_a_task_has(committed: Any, task: dict[str, Any], fits: bool) -> None:
    sections = {"name": "x", "model": {"base": "m"}, "data": {"labeled": "l", "unlabeled": "u", "test": "t"}}
    assert Draft202012Validator(committed).is_valid(sections | {"task": task}) == fits

"""What a committee means for the collaborators and their prompts."""

from pathlib import Path

import pytest

from semievol import config
from semievol.errors import UserError


def test_a_committee_answers_in_place_of_the_warm_model(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}")
    alone, several = (
        config.load(str(path)),
        config.load(str(path), ["warmup.members=3", "warmup.styles=[careful, plain]"]),
    )
    assert alone.voters == alone.label.collaborators and alone.label_how["justify"] and alone.folds is None
    assert [who.name for who in several.label.collaborators] == ["committee"] and not several.label_how["justify"]
    assert [(who.name, who.model, who.prompt, who.k) for who in several.voters] == [
        ("committee@warm-0", "warm-0", "careful", 0),
        ("committee@warm-1", "warm-1", "plain", 0),
        ("committee@warm-2", "warm-2", "careful", 0),
    ]
    assert config.loads(config.to_yaml(several), [], "x") == several
    assert len(set(config.load(str(path), ["warmup.members=4"]).member_styles)) == 4
    mixed = ["warmup.members=2", "label.justify=true", "label.collaborators=[{name: b, model: base}, {name: a}]"]
    assert [who.name for who in config.load(str(path), mixed).voters] == ["b", "a@warm-0", "a@warm-1"]
    assert config.load(str(path), mixed).label_how["justify"]
    for given, message in (
        ("{name: a, prompt: careful}", r"collaborators\[0\].prompt: each member of the committee has its own style"),
        ("{name: a@b}", r"collaborators\[0\].name: must not hold @"),
    ):
        with pytest.raises(UserError, match=message):
            config.load(str(path), ["warmup.members=2", f"label.collaborators=[{given}]"])

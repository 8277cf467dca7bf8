"""constraints/ pins what pyproject.toml needs, and names no host."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_every_dependency_has_a_version_that_pyproject_allows(extra: str) -> None:
    """If this fails, run `make constraints`."""
    lines = (ROOT / "constraints" / f"{extra}.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9.-]+==[a-z0-9.]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    extras = PROJECT["optional-dependencies"]
    for text in (*PROJECT["dependencies"], *extras[extra], *extras["offline"], *extras["dev"]):
        needed = Requirement(text)
        assert needed.specifier.contains(pinned[canonicalize_name(needed.name)]), text

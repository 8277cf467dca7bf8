"""The configs in examples/ load, say how they are run, and are mentioned where a reader looks."""

import re
from pathlib import Path

import pytest

from semievol.config import load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_loads_and_begins_with_whom_it_is_for(path: Path) -> None:
    text = path.read_text("utf-8")
    heading = re.match(r"(?:#.*\n){3,5}(?!#)", text)
    assert heading is not None, "three to five lines of comment come first"
    for word in ("For:", "Change:", "Run:"):
        assert f"# {word}" in heading[0]
    assert re.search(rf"semievol (run|submit) examples/{path.name}\b", heading[0])
    assert load(str(path)).name


def test_names_differ_so_that_no_example_resumes_another() -> None:
    names = [load(str(path)).name for path in EXAMPLES]
    assert len(set(names)) == len(names) >= 5


def test_a_reader_finds_the_examples() -> None:
    assert "](examples)" in (ROOT / "README.md").read_text("utf-8")

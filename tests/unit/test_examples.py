"""The configs in examples/ and configs/ fit what they are for, say how they are run, and are mentioned where a reader looks."""

import csv
import re
from pathlib import Path

import pytest

from semievol.config import load
from semievol.data.inputs import inputs
from semievol.stages import ingest
from semievol.tasks import Row

ROOT = Path(__file__).parents[2]
OPTIONS = '["yes", "no", "maybe"]'
# The header of the authors' files (ConvFinQA: of TheFinAI's), and a row like theirs.
PAPER = {
    "fpb": {"question": "q", "gt": "neutral", "options": '["negative", "neutral", "positive"]', "answer": "B"},
    "arc": {"id": "Mercury_1", "question": "q", "answer": "B", "options": OPTIONS},
    "mmlu": {"Unnamed: 0": "7", "question": "q", "answer": "B", "Subject": "law", "options": OPTIONS},
    "mmlu_pro": {"question_id": "1", "question": "q", "options": OPTIONS, "answer": "B", "answer_index": "1"},
    "pubmedqa": {"id": "1", "question": "An abstract. q", "options": OPTIONS, "answer": "B"},
    "usmle": {"question": "q", "options": OPTIONS, "meta_info": "step1", "answer": "no"},
    "convfinqa": {"Open-ended Verifiable Question": "q", "Ground-True Answer": "0.14"},
}
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


@pytest.mark.parametrize("name", PAPER)
def test_a_config_of_the_paper_fits_the_files_that_it_is_for(name: str, tmp_path: Path) -> None:
    for split in ("labeled", "unlabeled", "test"):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, PAPER[name])
            writer.writeheader()
            writer.writerow(PAPER[name])
    path = ROOT / "configs" / f"{name}.yaml"
    config = load(str(path), [f"data.{split}={tmp_path}/{split}.csv" for split in ("labeled", "unlabeled", "test")])
    assert [len(files) for files in inputs(config).values()] == [1, 1, 1]  # no column is missing
    for split in ("labeled", "unlabeled"):
        record = ingest._record(PAPER[name], split, config)
        assert record.get("reason") is None and record["question"].endswith("q")
        assert record["answer"] == (
            config.task.gold(PAPER[name][config.data.columns.answer], _row()) if split == "labeled" else None
        )
    assert record["oracle"] is not None and record.get("note") is None
    heading = path.read_text("utf-8").partition("\nname:")[0]
    assert "https://github.com/luo-junyu/SemiEvol" in heading or (name == "convfinqa" and "could not be" in heading)


def _row() -> Row:
    return Row("q", ["yes", "no", "maybe"], None, None)


def test_every_data_set_of_the_paper_has_a_config() -> None:
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} == PAPER.keys() | {"few_labels"}
